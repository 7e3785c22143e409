"""The drift reference of a bundle, and the thresholds calibrated on it."""
