"""Reads model files that somebody else made, and writes metadata into ours (docs/model-files.md): no torch, no runtime."""
