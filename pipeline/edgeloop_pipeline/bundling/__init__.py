"""Parts of a bundle: variants, golden samples, references, provenance."""
