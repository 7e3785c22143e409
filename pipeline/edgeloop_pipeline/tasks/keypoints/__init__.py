"""Keypoints: boxes with named points, by the cells of a detector."""
