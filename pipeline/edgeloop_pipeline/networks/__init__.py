"""Saves, loads and builds networks."""
