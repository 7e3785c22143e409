"""One form for both kinds of graph: what the rules of `rules` and `states` read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

__all__ = ["Constant", "Graph", "Kind", "Operator"]

Kind = Literal[
    "convolution", "pool", "linear", "recurrent", "softmax", "log_softmax", "sigmoid", "argmax", "quantize", "dequantize",
    "same", "reshape", "transpose", "pad", "concat", "part", "pointwise", "bias", "add", "detections", "other",
]  # fmt: skip
# same: Identity, Cast. part: slices and splits. bias: adds a constant. pad: also resizes; axes keep their metadata.
# detections: boxes, labels, scores, count.


@dataclass(frozen=True)
class Operator:
    """`reads`: the data first, then weights; "" where one is left out. `axes`: of a transpose. `feeds`: (old, new) states.

    `activated`: the file's operator applies a nonlinear function to its sums too.
    """

    kind: Kind
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    axes: tuple[int, ...] = ()
    feeds: tuple[tuple[str, str], ...] = ()
    activated: bool = False


@dataclass(frozen=True)
class Constant:
    dtype: str
    count: int


@dataclass(frozen=True)
class Graph:
    """`native`: the layout of convolutions by rank. `types`, `ranks`: of tensors, where they are known."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    constants: Mapping[str, Constant]
    native: Mapping[int, str]
    types: Mapping[str, str] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def input_names(self) -> frozenset[str]:
        return frozenset(self.inputs)

    @cached_property
    def output_names(self) -> frozenset[str]:
        return frozenset(self.outputs)

    @cached_property
    def maker(self) -> dict[str, Operator]:
        return {name: operator for operator in self.operators for name in operator.makes if name}

    @cached_property
    def readers(self) -> dict[str, list[Operator]]:
        found: dict[str, list[Operator]] = defaultdict(list)
        for operator in self.operators:
            for name in dict.fromkeys(operator.reads):
                if name:
                    found[name].append(operator)
        return found
