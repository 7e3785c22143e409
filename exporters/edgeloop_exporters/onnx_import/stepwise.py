"""Recurrent layers in forms that torch's own do not have: one step after another, as plain operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeloop_exporters.onnx_import.values import Unsupported

__all__ = ["MAX_STEPS", "Form", "Stepwise", "activation"]

MAX_STEPS = 512  # each becomes operations of its own

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Form:
    """`activations`: of one direction; `clip`: 0 is none; `linear_before_reset`: of a GRU; `input_forget`: of an LSTM."""

    kind: str
    hidden: int
    activations: tuple[Activation, ...]
    clip: float
    linear_before_reset: bool
    input_forget: bool


class _Direction(nn.Module):
    """Weights of one direction. `bias`: of the input and of the state; `peepholes`: (3, hidden)."""

    def __init__(self, form: Form, weight: Tensor, inner: Tensor, bias: tuple[Tensor, Tensor], peepholes: Tensor | None) -> None:
        super().__init__()
        self.form = form
        self.weight, self.inner = nn.Parameter(weight.clone()), nn.Parameter(inner.clone())
        self.bias, self.inner_bias = nn.Parameter(bias[0].clone()), nn.Parameter(bias[1].clone())
        self.peepholes = None if peepholes is None else nn.Parameter(peepholes.clone())

    def _bounded(self, x: Tensor) -> Tensor:
        return x.clamp(-self.form.clip, self.form.clip) if self.form.clip else x

    def forward(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """(T, N, inputs) to T outputs (N, hidden), and the last states."""
        step = {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.form.kind]
        outputs = []
        for given in F.linear(x, self.weight, self.bias).unbind(0):
            states = step(given, states)
            outputs.append(states[0])
        return outputs, states

    def _rnn(self, given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (function,) = self.form.activations
        return (function(self._bounded(given + F.linear(states[0], self.inner, self.inner_bias))),)

    def _gru(self, given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (state,), (f, g), hidden = states, self.form.activations, self.form.hidden
        gates, candidate = given.split([2 * hidden, hidden], 1)
        inner, bias = self.inner.split([2 * hidden, hidden]), self.inner_bias.split([2 * hidden, hidden])
        update, reset = f(self._bounded(gates + F.linear(state, inner[0], bias[0]))).chunk(2, 1)
        if self.form.linear_before_reset:
            new = candidate + reset * F.linear(state, inner[1], bias[1])
        else:
            new = candidate + F.linear(reset * state, inner[1], bias[1])
        return ((1 - update) * g(self._bounded(new)) + update * state,)

    def _lstm(self, given: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (state, cell), (f, g, h) = states, self.form.activations
        gate, out, forget, new = (given + F.linear(state, self.inner, self.inner_bias)).chunk(4, 1)
        if self.peepholes is not None:
            gate, forget = gate + self.peepholes[0] * cell, forget + self.peepholes[2] * cell
        gate = f(self._bounded(gate))
        kept = 1 - gate if self.form.input_forget else f(self._bounded(forget))
        cell = kept * cell + gate * g(self._bounded(new))
        out = out if self.peepholes is None else out + self.peepholes[1] * cell
        return f(self._bounded(out)) * h(cell), cell


class Stepwise(nn.Module):
    """(T, N, inputs), and initial states where there are some, to (T, directions, N, hidden) and the last states."""

    def __init__(self, forms: Sequence[Form], weights: Sequence[tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor | None]],
                 backwards: Sequence[bool]) -> None:  # fmt: skip
        super().__init__()
        self.directions = nn.ModuleList(_Direction(form, *parts) for form, parts in zip(forms, weights, strict=True))
        self.hidden, self.count = forms[0].hidden, 2 if forms[0].kind == "LSTM" else 1
        self.backwards = list(backwards)

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        series, lasts = [], []
        for number, (direction, backwards) in enumerate(zip(self.directions, self.backwards, strict=True)):
            zero = torch.zeros((x.shape[1], self.hidden), dtype=x.dtype, device=x.device)
            first = tuple(states[i][number] if states else zero for i in range(self.count))
            outputs, last = direction(torch.flip(x, [0]) if backwards else x, first)
            series.append(torch.stack(outputs[::-1] if backwards else outputs))
            lasts.append(last)
        return (torch.stack(series, 1), *(torch.stack([last[i] for last in lasts]) for i in range(self.count)))


def activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """By ONNX's name, in any case of letters. Raises Unsupported."""
    a, b = alpha, beta
    known: dict[str, Activation] = {
        "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "softsign": F.softsign, "softplus": F.softplus,
        "leakyrelu": lambda x: F.leaky_relu(x, 0.01 if a is None else a), "elu": lambda x: F.elu(x, 1.0 if a is None else a),
        "thresholdedrelu": lambda x: F.threshold(x, 1.0 if a is None else a, 0.0),
        "hardsigmoid": lambda x: (x * (0.2 if a is None else a) + (0.5 if b is None else b)).clamp(0.0, 1.0),
        "affine": lambda x: x * (1.0 if a is None else a) + (0.0 if b is None else b),
        "scaledtanh": lambda x: torch.tanh(x * (1.0 if b is None else b)) * (1.0 if a is None else a),
    }  # fmt: skip
    found = known.get(name.lower())
    if found is None:
        raise Unsupported(f"with activation {name}")
    return found
