"""The results of quantization: each repair step, and the cost of each layer."""

from __future__ import annotations

import msgspec

from edgeloop_pipeline.results.training import Epoch


class RepairStep(msgspec.Struct, frozen=True):
    """One repair step. `metric`: the task's, on validation data; `sqnr_db`: of the scores against the float network's.

    `over`: the ceiling that its files exceed, in words, or ''. `note`: further facts.
    """

    name: str
    metric: float
    sqnr_db: float
    gained: float
    kept: bool
    seconds: float
    over: str = ""
    note: str = ""


class LayerLoss(msgspec.Struct, frozen=True):
    """The loss of one layer. `sqnr_db`, `cosine`: its output against float, all rounded. `alone_*`: only this layer rounded."""

    layer: str
    sqnr_db: float
    cosine: float
    alone_metric_lost: float
    alone_sqnr_db: float
    cause: str


class QuantizeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `quantize`. `nodes`: operations as traced, simplified, folded. `points`, `weights`: quantized tensors."""

    validation_accuracy: float
    float_validation_accuracy: float
    post_training_validation_accuracy: float
    method: str
    why: str
    repair_steps: list[RepairStep]
    layer_losses: list[LayerLoss]
    calibration: str
    float_layers: list[str]
    float_streams: bool
    float_front: int = 0  # leading layers
    spectrum_layers: int = 0  # that make a spectrum of the input, in float
    left_out: list[str] = []  # repair steps that there was no time for
    rounded_layers: int | None = None  # None: of a run before this was counted
    equalized: list[str]
    folded_batchnorms: int
    nodes: dict[str, int]
    points: int
    weights: int
    curve: list[Epoch]
    symmetric: QuantizeResult | None = None  # of TensorRT's scales
