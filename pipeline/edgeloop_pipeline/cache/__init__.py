"""The stage cache on disk, and the digests that name its entries."""
