"""Detects on the device that samples differ from those the model was validated on, and diagnoses what changed."""
