"""Tasks: labels, losses, metrics; one file per task."""
