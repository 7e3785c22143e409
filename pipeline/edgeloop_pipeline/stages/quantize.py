"""int8: calibration first; what that loses is explained, and repaired rung by rung until the floor holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edgeloop_exporters.range_observers import Following
from edgeloop_pipeline.recipe.stage_table import Base, Inputs, Metrics
from edgeloop_pipeline.training.settings import Count, Rate, Whole

When = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Quantize(Base):
    """Decide every scale once; both exported files carry these. Floors are judged on validation data here."""

    calibration_samples: Count = 512
    calibration: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto"  # auto: minmax; the others where it loses
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 99.99  # of each activation's values, for that method
    rounding: Literal["inputs", "nearest"] = "inputs"  # of weights: by what a layer's inputs look like where that is better
    equalize: When = "auto"  # channels between layers, and biases; auto: when calibration misses the floor
    float_streams: When = "auto"  # residual streams: sums, and the layers that begin them; auto: when calibration misses the floor
    float_layers: list[str] = field(default_factory=list)  # names of layers that stay in float
    most_float_layers: Whole = 2  # that may stay in float to hold the floor
    qat: When = "auto"  # quantization-aware training; auto: when nothing cheaper holds the floor
    qat_epochs: Count = 4
    qat_learning_rate: Rate = 2e-4  # how far weights move in a step at most, of their tensor's root mean square (Adafactor)
    ranges: Following = field(default_factory=Following)  # how activation ranges follow the data in training
    batch: Count = 128

    needs = ("network",)
    gives = ("quantized",)
    libraries = ("torch", "numpy")
    collective = True
    uses_target = True

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.quantization.repair import Ladder
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        seed_everything(project.recipe.head.seed + 2)
        ladder = Ladder(inputs, self, saved_network.load(project, inputs.artefacts["network"]))
        graph = ladder.climb()
        quantized_graph.save(out, graph)
        missed = ladder.missed(ladder.post_training)
        return {
            "validation_accuracy": ladder.best.measure,
            "float_validation_accuracy": ladder.float_measure,
            "post_training_validation_accuracy": ladder.post_training,
            "method": ladder.method,
            "why": missed or ("asked for" if self.qat == "always" else "post-training holds the floor"),
            "rungs": msgspec.to_builtins(ladder.rungs),
            "layer_losses": msgspec.to_builtins(ladder.losses),
            "calibration": graph.options.method,
            "float_layers": list(graph.options.float_layers),
            "float_streams": graph.options.float_streams,
            "equalized": list(graph.equalized),
            "folded_batchnorms": graph.folded,
            "nodes": dict(zip(("traced", "simplified", "folded"), graph.nodes, strict=True)),
            "points": len(graph.plan.points),
            "weights": len(graph.plan.weights),
            "curve": ladder.curve,
        }
