"""What a TFLite operator's rule gets, and the table of rules: operator's name → what writes its ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgeloop_contract.arrays import Array
from edgeloop_exporters.tflite_import.writing import Writer

__all__ = ["RULES", "Step", "Unsupported", "rule"]


class Unsupported(Exception):
    """An operator in a form that is not known. The text says why; the caller adds the operator."""


@dataclass(frozen=True)
class Step:
    """One operator. `inputs`, `outputs`: numbers of tensors, -1 for none; `options`: the schema's, None where it has none."""

    write: Writer
    op: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: Any

    def option(self, name: str, default: Any = 0) -> Any:
        value = getattr(self.options, name, None)
        return default if value is None else value

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] >= 0

    def shape(self, i: int) -> tuple[int, ...]:
        return self.write.shapes[self.inputs[i]]

    def goal(self, i: int = 0) -> tuple[int, ...]:
        return self.write.shapes[self.outputs[i]]

    def constant(self, i: int) -> Array:
        """Raises Unsupported where the data decide it."""
        found = self.write.constants.get(self.inputs[i])
        if found is None:
            raise Unsupported(f"with an input {i + 1} that the data decide")
        return found

    def ints(self, i: int) -> list[int]:
        return [int(v) for v in self.constant(i).reshape(-1)]

    def axes(self, i: int) -> list[int]:
        return [axis % max(len(self.shape(0)), 1) for axis in self.ints(i)]

    @property
    def first(self) -> bool:
        """Whether the result is made channels first: it has four axes, and so has something that is so already."""
        return len(self.goal()) == 4 and any(
            len(self.write.shapes[i]) == 4 and self.write.has_first(i) for i in self.inputs if i >= 0
        )

    def put(self, name: str, first: bool, i: int = 0) -> None:
        """The result, with the activation that is fused into the operator."""
        kind = int(self.option("fusedActivationFunction"))
        self.write.put(self.outputs[i], self.activated(name, kind), first)

    def activated(self, name: str, kind: int) -> str:
        if kind == 0:
            return name
        if kind in LIMITS:
            low, high = (self.write.number(v) for v in LIMITS[kind])
            return self.write.node("Clip", [name, low, high])
        if kind not in FUSED:
            raise Unsupported(f"with fused activation {kind}")
        return self.write.node(FUSED[kind], [name])


FUSED = {1: "Relu", 4: "Tanh"}
LIMITS = {2: (-1.0, 1.0), 3: (0.0, 6.0)}
Rule = Callable[[Step], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def keep(written: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, written))
        return written

    return keep
