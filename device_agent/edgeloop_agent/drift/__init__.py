"""Notices on the device that samples are not what the model was validated on, and says as far as the data allow what changed."""
