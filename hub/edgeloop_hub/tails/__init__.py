"""Tails: the rest of models whose first layers ran on a device, over Open Inference Protocol v2."""
