"""Boxes from frame to frame: which are one object, which lines it crossed, in which zones it is."""
