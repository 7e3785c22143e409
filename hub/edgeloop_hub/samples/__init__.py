"""Samples of devices: ingest, the labelling queue, accuracy."""
