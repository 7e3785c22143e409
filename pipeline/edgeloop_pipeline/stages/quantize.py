"""The stage `quantize`: calibrates to int8, explains the loss, and takes repair steps until the floor holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeloop_pipeline.quantization.settings import QuantizeSettings
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.quantization import QuantizeResult


@dataclass(frozen=True)
class Quantize(QuantizeSettings, Base):
    """Decides every scale once; both exported files use these scales. Judges floors on validation data."""

    needs = ("network",)
    gives = ("quantized",)
    code = RUNTIMES
    libraries = ("torch", "numpy")
    collective = True
    uses_target = True

    def __call__(self, inputs: Inputs, out: Path) -> QuantizeResult:
        from edgeloop_pipeline.networks import saved_network
        from edgeloop_pipeline.quantization import quantized_graph
        from edgeloop_pipeline.quantization.repair import Repair
        from edgeloop_pipeline.training.scoring import seed_everything

        project = inputs.project
        seed_everything(project.recipe.head.seed + 2)
        repair = Repair(inputs, self, saved_network.load(project, inputs.artefacts["network"]))
        graph = repair.run()
        quantized_graph.save(out, graph)
        missed = repair.missed(repair.post_training)
        return QuantizeResult(
            validation_accuracy=repair.best.metric,
            float_validation_accuracy=repair.float_metric,
            post_training_validation_accuracy=repair.post_training,
            method=repair.method,
            why=missed or ("asked for" if self.qat == "always" else "post-training quantization holds the floor"),
            repair_steps=repair.steps,
            layer_losses=repair.losses,
            calibration=graph.options.method,
            float_layers=list(graph.options.float_layers),
            float_streams=graph.options.float_streams,
            equalized=list(graph.equalized),
            folded_batchnorms=graph.folded,
            nodes=dict(zip(("traced", "simplified", "folded"), graph.nodes, strict=True)),
            points=len(graph.plan.points),
            weights=len(graph.plan.weights),
            curve=repair.curve,
        )
