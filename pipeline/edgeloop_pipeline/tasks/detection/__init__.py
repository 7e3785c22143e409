"""The task detection: boxes with labels in a picture."""
