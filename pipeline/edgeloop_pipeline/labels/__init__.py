"""Samples of the hub's queue to other labelling tools, and their labels back."""
