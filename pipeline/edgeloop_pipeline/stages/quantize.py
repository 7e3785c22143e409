"""int8: calibration first; what that loses is explained, and repaired rung by rung until the floor holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgeloop_pipeline.quantization.settings import QuantizeSettings
from edgeloop_pipeline.recipe.inputs import Inputs, Metrics
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base


@dataclass(frozen=True)
class Quantize(QuantizeSettings, Base):
    """Decide every scale once; both exported files carry these. Floors are judged on validation data here."""

    needs = ("network",)
    gives = ("quantized",)
    code = RUNTIMES
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
