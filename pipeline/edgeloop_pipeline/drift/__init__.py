"""Makes the drift reference of a bundle, and the thresholds that are calibrated on it."""
