"""Which scales integer kernels ask for, and along which axis a weight has its own."""

from __future__ import annotations

from typing import Any

from torch import fx

from edgeloop_exporters.graph import TRANSPOSED, aten
from edgeloop_exporters.rewrites import is_normalized

__all__ = ["axis_of", "fixed_scale"]

# TFLite's integer kernels accept just this scale and zero point (uint8 form) for these.
FIXED = {
    aten.sigmoid.default: (1 / 256, 0),
    aten.softmax.int: (1 / 256, 0),
    aten.tanh.default: (1 / 128, 128),
    aten.log_softmax.int: (16 / 256, 255),
}
MIN_INPUTS = 128  # of a linear layer with a scale for each output, which takes some 24 bytes of a TFLite file
UNIT = (1 / 128, 128)  # of what is divided by its own norm


def axis_of(node: fx.Node, weight: Any) -> int | None:
    """The axis of outputs, each with a scale; None where so many scales would take more bytes than they are worth."""
    if node.target is aten.linear.default and weight.shape[1] < MIN_INPUTS:
        return None
    return 1 if node.target in TRANSPOSED else 0


def fixed_scale(node: fx.Node, floating: set[fx.Node], input_qparams: tuple[float, int] | None) -> tuple[float, int] | None:
    """What an integer kernel asks for; None where any scale does."""
    if node.op == "placeholder":
        return input_qparams
    target: Any = node.target
    if is_normalized(node):
        return UNIT
    return None if target is aten.softmax.int and node in floating else FIXED.get(target)
