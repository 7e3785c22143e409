"""Runs a recipe: stages, their keys, and what was run last."""
