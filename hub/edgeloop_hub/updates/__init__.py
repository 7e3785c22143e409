"""Signed updates: The Update Framework's metadata, and the registry of bundles."""
