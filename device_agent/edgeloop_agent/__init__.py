"""The light runtime for the device: no torch, no scipy, bounded memory."""
