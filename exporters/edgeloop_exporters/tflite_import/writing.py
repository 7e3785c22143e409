"""ONNX nodes for tensors that TFLite keeps channels last: each is known in the layouts that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array

__all__ = ["TO_FIRST", "TO_LAST", "Writer"]

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class Writer:
    """`shapes`, `constants`: of TFLite's tensors, by number, channels last. Names of ONNX values are our own."""

    def __init__(self, shapes: Mapping[int, tuple[int, ...]], constants: dict[int, Array]) -> None:
        self.shapes, self.constants = shapes, constants
        self.nodes: list[Any] = []
        self.made: dict[int, tuple[str, bool]] = {}  # what operators make, in the layout that they make it in
        self.initializers: list[Any] = []
        self._names: dict[tuple[int, bool], str] = {}
        self._numbers: dict[float, str] = {}
        self.complex: set[int] = set()  # tensors that are (..., 2) here
        self.where = ""  # of the operator that is being written, for the names of its nodes

    def fresh(self, kind: str) -> str:
        return f"{self.where or 'tensor'}_{kind}_{len(self.nodes) + len(self.initializers)}"

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """The name of the node's result, the first of several."""
        return self.nodes_of(kind, inputs, outputs, **attributes)[0]

    def nodes_of(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        from onnx import helper

        name = self.fresh(kind)
        made = [name if i == 0 else f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made

    def constant(self, values: Array) -> str:
        from onnx import numpy_helper

        name = self.fresh("constant")
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        if value not in self._numbers:
            self._numbers[value] = self.constant(np.array(value, np.float32))
        return self._numbers[value]

    def has_first(self, i: int) -> bool:
        return (i, True) in self._names and i not in self.constants

    def is_known(self, i: int) -> bool:
        return i in self.constants or (i, True) in self._names or (i, False) in self._names

    def get(self, i: int, first: bool = False) -> str:
        """The tensor in this layout; a constant with fewer axes is widened to four for channels first."""
        key = (i, first)
        if key in self._names:
            return self._names[key]
        if i in self.constants:
            values = self.constants[i]
            if first:
                values = values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(TO_FIRST)
            self._names[key] = self.constant(values)
        else:
            self._names[key] = self.node("Transpose", [self._names[(i, not first)]], perm=TO_FIRST if first else TO_LAST)
        return self._names[key]

    def put_complex(self, i: int, name: str) -> None:
        self._names[(i, False)] = name
        self.complex.add(i)

    def put(self, i: int, name: str, first: bool = False) -> None:
        self._names[(i, first)] = name
        if self.where:
            self.made[i] = (name, first)
