"""Quantized graphs: made, repaired, diagnosed, and their files measured."""
