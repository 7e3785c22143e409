"""Trains and measures the parts for work that a device and a server share: codecs, early exits, thresholds."""
