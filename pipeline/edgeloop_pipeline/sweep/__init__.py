"""Runs sweeps: many variants of one recipe, and the best of them."""
