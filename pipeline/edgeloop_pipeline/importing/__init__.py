"""A trained model from a file into a project: what it means, and what was asked of it."""
