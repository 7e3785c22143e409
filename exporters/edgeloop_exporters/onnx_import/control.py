"""Branches and loops whose way no sample decides: the branch that is taken, and the steps one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

__all__ = ["CONTROL"]

MAX_STEPS = 1000


class Walks(Protocol):
    build: Builder

    def called(self, graph: Any, given: Mapping[str, Value]) -> list[Value]: ...


def _branch(walker: Walks, proto: Any, inputs: Sequence[Value | None]) -> list[Value]:
    condition = inputs[0]
    if condition is None or not condition.is_constant:
        raise Unsupported("a branch that the data decide")
    return walker.called(_graph(proto, "then_branch" if bool(condition.a) else "else_branch"), {})


def _loop(walker: Walks, proto: Any, inputs: Sequence[Value | None]) -> list[Value]:
    count, condition = inputs[0], inputs[1] if len(inputs) > 1 else None
    body, build = _graph(proto, "body"), walker.build
    if (count is not None and not count.is_constant) or (condition is not None and not condition.is_constant):
        raise Unsupported("a loop whose steps the data decide")
    if count is None and condition is None:
        raise Unsupported("a loop without an end")
    most = MAX_STEPS + 1 if count is None else int(count.a)
    goes_on = condition is None or bool(condition.a)
    states = _present(inputs[2:])
    collected: list[list[Value]] = [[] for _ in range(len(body.output) - 1 - len(states))]
    step = 0
    while step < most and goes_on:
        if step >= MAX_STEPS:
            raise Unsupported(f"a loop of more than {MAX_STEPS} steps")
        given = [build.tensor(torch.tensor(step)), build.tensor(torch.tensor(True)), *states]
        made = walker.called(body, {i.name: value for i, value in zip(body.input, given, strict=True)})
        if not made[0].is_constant:
            raise Unsupported("a loop whose steps the data decide")
        goes_on, states = bool(made[0].a), made[1 : 1 + len(states)]
        for kept, value in zip(collected, made[1 + len(states) :], strict=True):
            kept.append(value)
        step += 1
    return [*states, *(_stacked(build, values, 0) for values in collected)]


def _scan(walker: Walks, proto: Any, inputs: Sequence[Value | None]) -> list[Value]:
    body, build = _graph(proto, "body"), walker.build
    options = {a.name: list(a.ints) for a in proto.attribute if a.ints}
    each = next((int(a.i) for a in proto.attribute if a.name == "num_scan_inputs"), 0)
    if not 0 < each <= len(inputs):
        raise Unsupported("without what it goes along")
    if "directions" in options or len(body.input) != len(inputs):
        raise Unsupported("of operator set 8")
    given = _present(inputs)
    states, series = given[: len(given) - each], given[len(given) - each :]
    axes = [a % max(v.rank, 1) for a, v in zip(options.get("scan_input_axes", [0] * each), series, strict=True)]
    lengths = {side.shape[axis] for value, axis in zip(series, axes, strict=True) for side in (value.a, value.b)}
    if len(lengths) != 1 or max(lengths) > MAX_STEPS:
        raise Unsupported(f"a loop along the batch, or of more than {MAX_STEPS} steps")
    steps, backwards = lengths.pop(), options.get("scan_input_directions", [0] * each)
    answers = len(body.output) - len(states)
    collected: list[list[Value]] = [[] for _ in range(answers)]
    for step in range(steps):
        parts = [
            build.call(torch.select, value, axis, steps - 1 - step if back else step)
            for value, axis, back in zip(series, axes, backwards, strict=True)
        ]
        made = walker.called(body, {i.name: value for i, value in zip(body.input, [*states, *parts], strict=True)})
        states = made[: len(states)]
        for kept, value in zip(collected, made[len(states) :], strict=True):
            kept.append(value)
    back, places = options.get("scan_output_directions", [0] * answers), options.get("scan_output_axes", [0] * answers)
    stacked = [
        _stacked(build, values[::-1] if turned else values, axis)
        for values, turned, axis in zip(collected, back, places, strict=True)
    ]
    return [*states, *stacked]


def _stacked(build: Builder, values: list[Value], axis: int) -> Value:
    if not values:
        raise Unsupported("a loop of no steps")
    return build.call(torch.stack, values, axis)


def _present(values: Sequence[Value | None]) -> list[Value]:
    if any(value is None for value in values):
        raise Unsupported("without one of its states")
    return [value for value in values if value is not None]


def _graph(proto: Any, name: str) -> Any:
    found = next((a.g for a in proto.attribute if a.name == name), None)
    if found is None:
        raise Unsupported(f"without its {name}")
    return found


CONTROL: dict[str, Callable[[Any, Any, Sequence[Value | None]], list[Value]]] = {"If": _branch, "Loop": _loop, "Scan": _scan}
