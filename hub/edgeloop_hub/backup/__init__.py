"""All of a hub in one file, and back."""
