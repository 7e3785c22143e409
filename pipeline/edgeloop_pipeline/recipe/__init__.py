"""Reads and checks recipes and projects, and writes new ones for new data."""
