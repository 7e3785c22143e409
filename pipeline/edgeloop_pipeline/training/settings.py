"""Settings of everything that trains (no torch here: a cached run reads them)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
NonNegativeInt = Annotated[int, msgspec.Meta(ge=0)]
PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Fraction01 = Annotated[float, msgspec.Meta(ge=0, le=1)]
Auto = Literal["auto"]


NEUTRAL = {"neutral": True}


class Float8(msgspec.Struct, frozen=True, kw_only=True):
    """The scaling of FP8 tensors: by a window of past maxima (delayed), or by the tensor itself (dynamic).

    scale = 2^-margin × largest FP8 value ÷ amax, where amax is the window's maximum or its newest entry
    (Micikevicius et al. 2022; the names are Transformer Engine's).
    """

    scaling: Literal["delayed", "dynamic"] = "delayed"
    history: PositiveInt = 16  # optimizer steps
    policy: Literal["max", "most_recent"] = "max"
    margin: Annotated[int, msgspec.Meta(ge=0, le=8)] = 0  # powers of two kept free above the maximum


@dataclass(frozen=True)
class FitSettings:
    """The settings of a training. Default: one-cycle (Smith 2018): the rate rises for `warm_up` of the steps, then falls."""

    epochs: PositiveInt = 20
    batch: PositiveInt | Auto = 128  # samples per optimizer step, over all processes; auto: by measured throughput
    learning_rate: PositiveFloat | Auto = 0.1  # the peak; auto: by a range test
    weight_decay: Annotated[float, msgspec.Meta(ge=0)] = 5e-4
    # The state per parameter: sgd one value, adamw two; adafactor a row and a column per matrix.
    optimizer: Literal["sgd", "adamw", "adafactor"] = "sgd"
    schedule: Literal["one-cycle", "cosine", "plateau", "constant"] = "one-cycle"
    warm_up: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.2
    patience: NonNegativeInt = 0  # stop after this many epochs without a better one; 0: never
    keep: Literal["best", "last"] = "best"  # which epoch's weights, by the validation metric
    # A moving average of the weights is judged and kept: this share of it stays at each step, such as 0.998; 0: the last weights.
    average: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    clip_norm: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # Beta(mixup, mixup); 0: off (Zhang et al. 2018)
    precision: Literal["auto", "float32", "bf16", "fp16", "fp8"] = "auto"  # auto: the fastest, by a short measurement
    float8: Float8 = field(default_factory=Float8)
    channels_last: bool | Auto = "auto"  # memory layout of images; auto: the faster one
    accumulate: PositiveInt = 1  # parts of a batch, one after the other: less memory, the same step
    checkpoint_activations: bool = False  # recompute them in the backward pass: less memory, about a third more time
    shard: bool = False  # weights, gradients and optimizer state divided over the processes (FSDP)
    offload: bool = False  # with shard, on GPUs: unused weights and states wait in the host's memory
    max_memory_bytes: PositiveInt | Auto = "auto"  # for the batch search; auto: 80 % of the free memory
    # None of the following changes the trained weights, so none is part of the cache key.
    workers: NonNegativeInt | Auto = field(default="auto", metadata=NEUTRAL)  # loader processes; auto: by measurement
    prefetch: PositiveInt | Auto = field(default="auto", metadata=NEUTRAL)  # batches ready per loader process; auto: by measurement
    checkpoint_minutes: PositiveFloat = field(default=5.0, metadata=NEUTRAL)  # each epoch's end makes a checkpoint too
    checkpoint_steps: NonNegativeInt = field(default=0, metadata=NEUTRAL)  # 0: by the clock alone
    tensorboard: str = field(default="", metadata=NEUTRAL)  # folder for event files
    mlflow: str = field(default="", metadata=NEUTRAL)  # tracking address, such as file:mlruns or http://host:5000
