"""Bias correction (Nagel et al. 2019): each layer's mean error of rounding is taken off its bias, without training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_exporters.graph import TRANSPOSED, WEIGHTED, channel_axis, set_parameter, tensor_of


class _Means(fx.Interpreter):
    """Mean of each channel of every weighted layer's output; with `wanted` given, biases are moved until they are those."""

    def __init__(self, module: fx.GraphModule, wanted: dict[str, Tensor] | None = None) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.means: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target not in WEIGHTED:
            return result
        axis = channel_axis(n)
        mean = result.transpose(0, axis).flatten(1).mean(1)
        self.means[n.name] = mean
        bias = tensor_of(self.module, n.args[2]) if len(n.args) > 2 else None
        if self.wanted is None or bias is None:
            return result
        off = self.wanted[n.name] - mean
        bias.add_(off)
        return result + off.reshape([-1 if i == axis else 1 for i in range(result.dim())])


def means(module: fx.GraphModule, x: Tensor) -> dict[str, Tensor]:
    """Of each channel of every weighted layer's output, by node, with the quantizers as they are."""
    recorder = _Means(module)
    with torch.no_grad():
        recorder.run(x)
    return recorder.means


def correct_biases(module: fx.GraphModule, x: Tensor, wanted: dict[str, Tensor]) -> None:
    """Take each layer's mean error of rounding, channel by channel, off its bias.

    `module`: a calibrated graph with its quantizers on, changed in place; `x`: normalized samples; `wanted`: their `means` in
    floats. Layers follow in order, each seeing the corrected ones before it.
    """
    with torch.no_grad():
        _Means(module, wanted).run(x)


def add_biases(module: fx.GraphModule) -> None:
    """Give layers without a bias one of zeros, so that it can be corrected."""
    for node in list(module.graph.nodes):
        if node.target not in WEIGHTED or (len(node.args) > 2 and node.args[2] is not None):
            continue
        weight = tensor_of(module, node.args[1])
        if weight is None or node.target in TRANSPOSED:
            continue
        name = f"{node.name}_added_bias"
        set_parameter(module, name, torch.zeros(weight.shape[0]))
        with module.graph.inserting_before(node):
            bias = module.graph.get_attr(name)
        node.args = (node.args[0], node.args[1], bias, *node.args[3:])
    module.recompile()
