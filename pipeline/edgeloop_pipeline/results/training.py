"""The results of training."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True)
class Epoch:
    """One epoch of the training curve. `validation_accuracy`: the task's metric."""

    epoch: int
    loss: float
    validation_accuracy: float
    validation_loss: float


@dataclass(frozen=True)
class BatchTrial:
    """One measured batch size. `samples_per_second` None: not measured, because of `why`. `bytes`: the estimated memory."""

    batch: int
    samples_per_second: float | None
    bytes: int
    why: str = ""


class SearchFacts(msgspec.Struct, frozen=True):
    """The search for batch size, learning rate and layout. An empty field: the recipe gives that setting."""

    batches: list[BatchTrial]
    range: list[tuple[float, float]]  # learning rate, smoothed loss
    layouts: dict[str, float]  # precision and memory layout → ms per step
    seconds: float


class LoaderFacts(msgspec.Struct, frozen=True):
    """The loader's facts. `seconds_a_step`: the measured time of each setting; empty if the recipe gives it."""

    workers: int
    prefetch: int
    seconds_a_step: dict[str, float]


class MemoryFacts(msgspec.Struct, frozen=True):
    """The bytes that training needs above the process itself: estimated by part, and the measured peak."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    batch: int
    total: int
    measured_peak: int


class Fp8Facts(msgspec.Struct, frozen=True):
    """The facts about FP8. `saturated_steps`: by tensor (input, weight, gradient), the steps whose maximum did not fit."""

    layers: int
    history_bytes: int
    saturated_steps: dict[str, int]


class TrainingFacts(msgspec.Struct, frozen=True):
    """The facts about each technique, for the report. No cache key contains them, because they decide nothing."""

    processes: str
    batch: int
    learning_rate: float
    channels_last: bool
    samples_per_second: float | None
    search: SearchFacts | None
    loader: LoaderFacts
    memory: MemoryFacts
    recomputed_units: int
    float8: Fp8Facts | None
    skipped_steps: int
    time_shares: dict[str, float]
    energy_joules: float | None
    energy: str
    notes: list[str]


class NetworkResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of `train` or `distill`. `training` None: the weights were given."""

    validation_accuracy: float
    parameters: int
    multiply_adds: int  # of one sample
    best_epoch: int | None = None
    precision: str | None = None
    curve: list[Epoch] = []
    training: TrainingFacts | None = None
