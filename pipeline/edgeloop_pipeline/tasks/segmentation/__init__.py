"""Segmentation: a label for each pixel, by the logits of grid cells."""
