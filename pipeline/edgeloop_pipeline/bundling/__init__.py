"""Makes the parts of a bundle: variants, golden samples, references, provenance."""
