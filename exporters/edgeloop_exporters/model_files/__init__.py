"""Reads model files that somebody else made, and writes meaning into ours (docs/model-files.md): no torch, no runtime."""
