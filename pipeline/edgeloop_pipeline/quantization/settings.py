"""Settings of quantization (no torch here: a cached run reads them)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from edgeloop_exporters.range_observers import Following
from edgeloop_pipeline.training.settings import NonNegativeInt, PositiveFloat, PositiveInt

When = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class QuantizeSettings:
    """How `quantize` chooses scales, and which repair steps may follow if that loses accuracy."""

    calibration_samples: PositiveInt = 512
    calibration: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto"  # auto: minmax; the others if it loses accuracy
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99  # of each activation's values, for that method
    rounding: Literal["inputs", "nearest"] = "inputs"  # of weights; inputs: by a layer's inputs, if that is better
    equalize: When = "auto"  # channels between layers, and biases; auto: when calibration misses the floor
    float_streams: When = "auto"  # residual streams: sums, and the layers that begin them; auto: when calibration misses the floor
    symmetric: bool = False  # also int8 around zero, for TensorRT: a calibration and a repair of its own, and one more ONNX file
    float_layers: list[str] = field(default_factory=list)  # names of layers that stay in float
    max_float_front: NonNegativeInt = 0  # leading layers that may stay in float where rounding them costs most of what is lost
    max_float_layers: NonNegativeInt = 2  # layers that may stay in float to hold the floor
    diagnosis_seconds: PositiveFloat = 60.0  # about the most time for the cost of each layer
    repair_seconds: PositiveFloat = 1e9  # no step without training begins later than this
    qat: When = "auto"  # quantization-aware training; auto: when nothing cheaper holds the floor
    qat_epochs: PositiveInt = 4
    qat_learning_rate: PositiveFloat = (
        2e-4  # how far weights move in a step at most, of their tensor's root mean square (Adafactor)
    )
    ranges: Following = field(default_factory=Following)  # how activation ranges follow the data in training
    batch: PositiveInt = 128
