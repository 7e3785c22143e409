"""Sweeps: many runs of one recipe, and the best of them."""
