"""Runs a recipe: its stages, their cache keys, and the note of the last run."""
