"""Whether the first layers are what int8 loses by: measured, by leaving their rounding off."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from edgeloop_exporters.fronts import leading_part
from edgeloop_exporters.quantization import set_mode
from edgeloop_exporters.quantizers import ActivationQuantizer, WeightQuantizer

__all__ = ["costly_front", "matters"]

MIN_LOSS = 0.02  # of the float network's metric; below it no layer is left in float without a floor
MOST = 0.5  # of the loss: so much of it has to be the first layers'


def matters(floats: float, metric: float) -> bool:
    """Whether so much is lost of the float network's metric that layers in float are worth their bytes."""
    return floats - metric > MIN_LOSS * abs(floats)


def costly_front(module: fx.GraphModule, judge: Callable[[], float], floats: float, most: int) -> int:
    """How many leading layers, `most` at the most, cost half of what the rounded graph loses; 0 where they do not.

    `judge`: the metric of `module` as it stands, with the network's own biases; `floats`: the float network's. Leaves all rounded.
    """
    metric = judge()
    found = 0
    for layers in range(1, most + 1):
        _leave_off(module, layers)
        if floats - judge() <= (1 - MOST) * (floats - metric):
            found = layers
            break
    set_mode(module, "quantize", "quantize")
    return found


def _leave_off(module: fx.GraphModule, layers: int) -> None:
    """Round nothing that the first `layers` layers read, and nothing that only they make for each other."""
    set_mode(module, "quantize", "quantize")
    part = leading_part(module, layers)
    for node in module.graph.nodes:
        if node.op == "call_module" and all(user in part for user in node.users):
            quantizer = module.get_submodule(str(node.target))
            if isinstance(quantizer, ActivationQuantizer | WeightQuantizer):
                quantizer.mode = "off"
