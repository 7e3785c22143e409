"""The stage `quantize`: calibrates to int8, explains the loss, and takes repair steps until the floor holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_pipeline.quantization.settings import QuantizeSettings
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import RUNTIMES, Base
from edgeloop_pipeline.results.quantization import QuantizeResult

if TYPE_CHECKING:
    from edgeloop_pipeline.quantization.quantized_graph import Graph
    from edgeloop_pipeline.quantization.repair import Repair


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
        saved = saved_network.load(project, inputs.artefacts["network"])
        made = []
        for symmetric in (False, True) if self.symmetric else (False,):
            repair = Repair(inputs, self, saved, symmetric)
            graph = repair.run()
            quantized_graph.save(out, graph)
            made.append(self._result(repair, graph))
        return msgspec.structs.replace(made[0], symmetric=made[1] if self.symmetric else None)

    def _result(self, repair: Repair, graph: Graph) -> QuantizeResult:
        from edgeloop_pipeline.quantization import quantized_graph

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
            left_out=repair.left_out,
            float_front=graph.options.float_front,
            spectrum_layers=quantized_graph.spectrum_layers(graph),
            rounded_layers=len(quantized_graph.layers(graph.module, graph.plan.floating)),
            equalized=list(graph.equalized),
            folded_batchnorms=graph.folded,
            nodes=dict(zip(("traced", "simplified", "folded"), graph.nodes, strict=True)),
            points=len(graph.plan.points),
            weights=len(graph.plan.weights),
            curve=repair.curve,
        )
