"""What training did."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True)
class Epoch:
    """One line of the training curve. `validation_accuracy`: the task's metric."""

    epoch: int
    loss: float
    validation_accuracy: float
    validation_loss: float


@dataclass(frozen=True)
class BatchTrial:
    """One measured batch size. `samples_per_second` None: not measured, for `why`. `bytes`: estimated, of memory."""

    batch: int
    samples_per_second: float | None
    bytes: int
    why: str = ""


class SearchFacts(msgspec.Struct, frozen=True):
    """How batch size, learning rate and layout were found. Empty: that one was given."""

    batches: list[BatchTrial]
    range: list[tuple[float, float]]  # learning rate, smoothed loss
    layouts: dict[str, float]  # precision and memory layout → ms a step
    seconds: float


class LoaderFacts(msgspec.Struct, frozen=True):
    """`seconds_a_step`: what was measured for each setting; empty where the recipe sets it."""

    workers: int
    prefetch: int
    seconds_a_step: dict[str, float]


class MemoryFacts(msgspec.Struct, frozen=True):
    """Bytes that training needs above the process itself: estimated by part, and the measured peak."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    batch: int
    total: int
    measured_peak: int


class Fp8Facts(msgspec.Struct, frozen=True):
    """`saturated_steps`: by tensor (input, weight, gradient), the steps whose maximum did not fit."""

    layers: int
    history_bytes: int
    saturated_steps: dict[str, int]


class TrainingFacts(msgspec.Struct, frozen=True):
    """What each technique did, for the report. It decides nothing: no cache key holds it."""

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
    """A network after `train` or `distill`. `training` None: its weights were given."""

    validation_accuracy: float
    parameters: int
    multiply_adds: int  # of one sample
    best_epoch: int | None = None
    precision: str | None = None
    curve: list[Epoch] = []
    training: TrainingFacts | None = None
