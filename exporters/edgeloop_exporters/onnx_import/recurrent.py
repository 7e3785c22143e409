"""LSTM, GRU and RNN: as torch's own layers, or step by step where torch has no such form."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgeloop_exporters.onnx_import.stepwise import MAX_STEPS, Form, Stepwise, activation
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


@dataclass(frozen=True)
class _Weights:
    weight: Tensor  # (directions, gates · hidden, inputs)
    inner: Tensor  # (directions, gates · hidden, hidden)
    bias: Tensor | None  # (directions, 2 · gates · hidden)
    peepholes: Tensor | None  # (directions, 3 · hidden)


@handles("LSTM", "GRU", "RNN")
def _recurrent(node: Node) -> list[Value]:
    call, first = node.build.call, bool(node.get("layout", 0))
    x = call(torch.permute, node[0], [1, 0, 2]) if first else node[0]
    layer = _layer(node, x)
    states = _states(node, first)
    made = _by_lengths(node, layer, x, states)
    if first:
        made = [call(torch.permute, made[0], [2, 0, 1, 3]), *(call(torch.permute, v, [1, 0, 2]) for v in made[1:])]
    return made


def _layer(node: Node, x: Value) -> nn.Module:
    parts = [node[1], node[2], node.maybe(3), node.maybe(7)]
    if not all(value is None or value.is_constant for value in parts):
        raise Unsupported("with weights that the data decide")
    weights = _Weights(*(None if value is None else value.a for value in parts))  # type: ignore[arg-type]
    direction = node.get("direction", "forward")
    return _own(node, x, weights, direction) if _is_torch(node, weights) else _by_steps(node, x, weights, direction)


def _is_torch(node: Node, weights: _Weights) -> bool:
    names = tuple(_names(node))
    usual = not names or names in (ACTIVATIONS[node.op], ACTIVATIONS[node.op] * 2)
    peeps = weights.peepholes is not None and bool(weights.peepholes.any())
    old = node.op == "GRU" and not node.get("linear_before_reset", 0)
    return usual and not (peeps or old or node.get("clip") or node.get("input_forget", 0))


def _names(node: Node) -> list[str]:
    return [a.decode() if isinstance(a, bytes) else a for a in node.get("activations", [])]


def _own(node: Node, x: Value, weights: _Weights, direction: str) -> nn.Module:
    directions, hidden = weights.weight.shape[0], int(node.get("hidden_size", weights.inner.shape[2]))
    cell: Any = KINDS[node.op](x.shape[2], hidden, bias=weights.bias is not None, bidirectional=directions == 2)
    for number in range(directions):
        end = "_l0_reverse" if number else "_l0"
        _give(cell, f"weight_ih{end}", node.op, weights.weight[number], hidden)
        _give(cell, f"weight_hh{end}", node.op, weights.inner[number], hidden)
        if weights.bias is not None:
            half = weights.bias.shape[1] // 2
            _give(cell, f"bias_ih{end}", node.op, weights.bias[number][:half], hidden)
            _give(cell, f"bias_hh{end}", node.op, weights.bias[number][half:], hidden)
    return Recurrent(cell, directions, direction == "reverse")


def _give(cell: Any, name: str, op: str, values: Tensor, hidden: int) -> None:
    gates = values.reshape(-1, hidden, *values.shape[1:])
    getattr(cell, name).data.copy_(torch.cat([gates[place] for place in GATES[op]]))


def _by_steps(node: Node, x: Value, weights: _Weights, direction: str) -> nn.Module:
    directions, hidden = weights.weight.shape[0], int(node.get("hidden_size", weights.inner.shape[2]))
    if x.shape[0] * directions > MAX_STEPS:
        raise Unsupported(f"of {x.shape[0]} steps in a form that torch lacks; at most {MAX_STEPS // directions}")
    functions = _functions(node, directions)
    forms, parts = [], []
    for number in range(directions):
        each = len(functions) // directions
        forms.append(
            Form(
                node.op,
                hidden,
                tuple(functions[number * each : (number + 1) * each]),
                float(node.get("clip", 0.0) or 0.0),
                bool(node.get("linear_before_reset", 0)),
                bool(node.get("input_forget", 0)),
            )
        )
        rows = weights.weight.shape[1]
        bias = weights.bias[number] if weights.bias is not None else torch.zeros(2 * rows)
        peepholes = None if weights.peepholes is None else weights.peepholes[number].reshape(3, hidden)
        parts.append((weights.weight[number], weights.inner[number], (bias[:rows], bias[rows:]), peepholes))
    return Stepwise(forms, parts, [direction == "reverse"] if directions == 1 else [False, True])


def _functions(node: Node, directions: int) -> list[Any]:
    names = _names(node) or list(ACTIVATIONS[node.op]) * directions
    if len(names) != len(ACTIVATIONS[node.op]) * directions:
        raise Unsupported(f"with {len(names)} activations")
    numbers = []
    for name in ("activation_alpha", "activation_beta"):
        given = node.get(name)
        if given and len(given) != len(names):  # which function each is for is said in different ways
            raise Unsupported(f"with {name} for some of its activations")
        numbers.append([float(v) for v in given] if given else [None] * len(names))
    return [activation(name, alpha, beta) for name, alpha, beta in zip(names, *numbers, strict=True)]


def _by_lengths(node: Node, layer: nn.Module, x: Value, states: list[Value]) -> list[Value]:
    """Over whole sequences, or over as much of each as its length says; zeros behind it."""
    lengths = node.maybe(4)
    if lengths is None or (lengths.is_static and bool((lengths.a == x.shape[0]).all())):
        return _run(node, layer, x, states)
    if not lengths.is_static:
        raise Unsupported("with lengths of sequences that the data decide")
    found = [int(v) for v in lengths.a.tolist()]
    if not all(0 < length <= x.shape[0] for length in found):
        raise Unsupported(f"with lengths {found[:8]} of {x.shape[0]} steps")
    if len(set(found)) == 1:
        return _shorter(node, layer, x, states, found[0])
    if x.batched(1) and not x.is_static:
        raise Unsupported("with another length for each sample of the batch")
    narrow, rows = node.build.call, []
    for i, length in enumerate(found):
        own = [narrow(torch.narrow, state, 1, i, 1) for state in states]
        rows.append(_shorter(node, layer, narrow(torch.narrow, x, 1, i, 1), own, length))
    return [narrow(torch.cat, [row[i] for row in rows], 2 if i == 0 else 1) for i in range(len(rows[0]))]


def _shorter(node: Node, layer: nn.Module, x: Value, states: list[Value], length: int) -> list[Value]:
    rest, call = x.shape[0] - length, node.build.call
    made = _run(node, layer, call(torch.narrow, x, 0, 0, length), states)
    return [call(torch.nn.functional.pad, made[0], [0, 0, 0, 0, 0, 0, 0, rest]), *made[1:]] if rest else made


def _run(node: Node, layer: nn.Module, x: Value, states: list[Value]) -> list[Value]:
    made = node.build.layer(node.name, layer, x, *states)
    return [node.build.call(operator.getitem, made, i) for i in range(3 if node.op == "LSTM" else 2)]


def _states(node: Node, first: bool) -> list[Value]:
    """Initial states (directions, N, hidden), where one is not zero."""
    given = [node.maybe(5), *([node.maybe(6)] if node.op == "LSTM" else [])]
    if all(value is None or (value.is_static and not bool(value.a.any())) for value in given):
        return []
    found = []
    for value in given:
        if value is None:
            raise Unsupported("with one initial state of two")
        value = node.build.call(torch.permute, value, [1, 0, 2]) if first else value
        if value.is_constant and value.shape[1] == 1 and not node[0].is_static and node[0].batched(0 if first else 1):
            value = node.build.call(Tensor.expand, value, [-1, node.build.batch, -1])
        found.append(value)
    return found
