"""LSTM, GRU and RNN, as torch's own layers."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value

# Of torch's gates in order, the place in ONNX's: i f g o of i o f c; r z n of z r h.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
KINDS: dict[str, type[nn.Module]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Recurrent(nn.Module):
    """(T, N, inputs), and initial states where there are some, to (T, directions, N, hidden) and the last states."""

    def __init__(self, cell: nn.Module, directions: int, backwards: bool) -> None:
        super().__init__()
        self.cell, self.directions, self.backwards = cell, directions, backwards

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        x = torch.flip(x, [0]) if self.backwards else x
        given: Any = None if not states else states[0] if len(states) == 1 else states
        out, last = self.cell(x, given)
        out = out.unflatten(2, (self.directions, -1)).permute(0, 2, 1, 3)
        out = torch.flip(out, [0]) if self.backwards else out
        return (out, *(last if isinstance(last, tuple) else (last,)))


@handles("LSTM", "GRU", "RNN")
def _recurrent(node: Node) -> list[Value]:
    x, weights, inner, bias = node[0], node[1], node[2], node.maybe(3)
    hidden, direction = int(node.get("hidden_size", inner.shape[2])), node.get("direction", "forward")
    _check(node, [v for v in (weights, inner, bias) if v is not None], direction)
    directions = weights.shape[0]
    cell: Any = KINDS[node.op](x.shape[2], hidden, bias=bias is not None, bidirectional=directions == 2)
    for number in range(directions):
        end = "_l0_reverse" if number else "_l0"
        _give(cell, f"weight_ih{end}", node.op, weights.a[number], hidden)
        _give(cell, f"weight_hh{end}", node.op, inner.a[number], hidden)
        if bias is not None:
            half = bias.shape[1] // 2
            _give(cell, f"bias_ih{end}", node.op, bias.a[number][:half], hidden)
            _give(cell, f"bias_hh{end}", node.op, bias.a[number][half:], hidden)
    build = node.build
    if node.get("layout", 0):
        raise Unsupported("with the batch first (layout 1)")
    states = _states(node)
    made = build.layer(node.name, Recurrent(cell, directions, direction == "reverse"), x, *states)
    return [build.call(operator.getitem, made, i) for i in range(3 if node.op == "LSTM" else 2)]


def _check(node: Node, constants: list[Value], direction: str) -> None:
    activations = [a.decode() if isinstance(a, bytes) else a for a in node.get("activations", [])]
    if activations and tuple(activations[: len(ACTIVATIONS[node.op])]) != ACTIVATIONS[node.op]:
        raise Unsupported(f"with activations {', '.join(activations)}")
    if node.get("clip") or node.get("input_forget", 0) or not all(value.is_constant for value in constants):
        raise Unsupported("with clip or input_forget, or with weights that the data decide")
    if node.op == "GRU" and not node.get("linear_before_reset", 0):
        raise Unsupported("with linear_before_reset 0; torch and TFLite have the other form: export it from PyTorch")
    lengths, peepholes = node.maybe(4), node.maybe(7)
    if (lengths is not None and not _whole(node, lengths)) or (peepholes is not None and bool(peepholes.a.abs().max() > 0)):
        raise Unsupported("with lengths of sequences, or with peepholes")


def _whole(node: Node, lengths: Value) -> bool:
    return lengths.is_static and bool((lengths.a == node[0].shape[0]).all())


def _give(cell: Any, name: str, op: str, values: Tensor, hidden: int) -> None:
    gates = values.reshape(-1, hidden, *values.shape[1:])
    getattr(cell, name).data.copy_(torch.cat([gates[place] for place in GATES[op]]))


def _states(node: Node) -> list[Value]:
    """Initial states, where one is not zero."""
    given = [node.maybe(5), *([node.maybe(6)] if node.op == "LSTM" else [])]
    if all(value is None or (value.is_static and not bool(value.a.any())) for value in given):
        return []
    found = []
    for value in given:
        if value is None:
            raise Unsupported("with one initial state of two")
        if value.is_constant and value.shape[1] == 1:
            value = node.build.call(Tensor.expand, value, [-1, node.build.batch, -1])
        found.append(value)
    return found
