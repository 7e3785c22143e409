"""The results of pruning and of the search for a budget."""

from __future__ import annotations

import msgspec

from edgeloop_pipeline.results.training import Epoch


class PruneResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `prune`. Shares are relative to the network before. `buys`: the benefit of the pattern, in words."""

    validation_accuracy: float
    pattern: str
    buys: str
    parameters: int
    parameters_share: float
    zeros: int
    compressed_share: float  # share of the deflated weights' bytes
    multiply_adds: int
    multiply_adds_before: int
    channels: dict[str, int | None]
    curve: list[Epoch]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One pruned network, trained a little, as int8. `accuracy`: on validation data; `widths`: layer → share kept."""

    widths: dict[str, float]
    accuracy: float
    latency_us: float
    bytes: int
    ram_bytes: int
    parameters: int
    energy_uj: float | None = None
    aim: float = 1.0  # the share of the budgets that the narrowing aimed at


class BudgetLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The ceilings (None: no ceiling), and the floor of the accuracy (0: no floor)."""

    latency_us: float | None = None
    bytes: float | None = None
    ram_bytes: float | None = None
    energy_uj: float | None = None
    accuracy: float = 0.0


class BudgetResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `budget`. `used`: ceiling → its share that the kept attempt uses. `whole`: the whole network."""

    validation_accuracy: float
    parameters: int
    multiply_adds: int
    limits: BudgetLimits
    whole: Attempt
    attempts: list[Attempt]
    kept: int
    used: dict[str, float]
    missed: list[str]
    layers_measured: int
    latency_of: str
