"""Figures of exported files, without torch: results of stages hold them."""

from __future__ import annotations

import msgspec


class Agreement(msgspec.Struct, frozen=True):
    """Two sets of scores on the same samples."""

    a: str
    b: str
    max_lsb: int
    exact_share: float
    top1_share: float | None  # None: the scores are not of classes
    samples: int


class LayerDifference(msgspec.Struct, frozen=True):
    """One quantized tensor: how far a runtime is from torch, in LSB."""

    point: str
    layer: str
    runtime: str
    max_lsb: int
    mean_lsb: float


class KernelCounts(msgspec.Struct, frozen=True):
    """Counts by operation of one model in one runtime's optimised graph; `moves`: what only changes places or shapes."""

    integer: dict[str, int]
    floating: dict[str, int]
    crossings: dict[str, int]
    moves: dict[str, int]
    note: str = ""
    delegated: bool = True  # TFLite: to XNNPACK

    @property
    def summary(self) -> str:
        floats = ", ".join(f"{n} {op}" for op, n in self.floating.items()) or "none"
        return f"{sum(self.integer.values())} integer, {sum(self.floating.values())} float ({floats})"


class LayerCost(msgspec.Struct, frozen=True):
    """One kernel of the optimised graph: mean time, and bytes of the weights it reads."""

    name: str
    operation: str
    microseconds: float
    weight_bytes: int
