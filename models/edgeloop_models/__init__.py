"""Reference projects: one folder a task, each a recipe with its network and data."""
