"""Recipes and projects: read, checked, and written for new data."""
