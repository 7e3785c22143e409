"""Tasks: labels, losses, metrics; one file a task."""
