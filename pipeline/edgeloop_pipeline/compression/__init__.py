"""Smaller networks: pruning, width scaling, and the search for a budget."""
