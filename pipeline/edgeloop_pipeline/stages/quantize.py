"""int8: post-training calibration first, quantization-aware training when that misses the floor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgeloop_pipeline.stages import Base, Inputs, Metrics
from edgeloop_pipeline.stages.fitting import Count, FitSettings, Rate


@dataclass(frozen=True)
class Quantize(Base):
    """Decide every scale once; both exported files carry these. Floors are judged on validation data here."""

    calibration_samples: Count = 512
    percentile: Annotated[float, msgspec.Meta(gt=50, le=100)] = 100.0  # of each activation's values; 100: min and max
    qat: Literal["auto", "always", "never"] = "auto"
    qat_epochs: Count = 4
    qat_learning_rate: Rate = 0.005
    batch: Count = 128

    needs = ("network",)
    gives = ("quantized",)
    libraries = ("torch", "numpy")
    collective = True
    uses_target = True

    def __call__(self, inputs: Inputs, out: Path) -> Metrics:
        import torch

        from edgeloop_pipeline import networks, quantized, tasks
        from edgeloop_pipeline.training.scoring import scores_of, seed_everything

        project = inputs.project
        seed_everything(project.recipe.head.seed + 2)
        task, validation = tasks.of(project.splits), project.splits.validation
        saved = networks.load(project, inputs.artefacts["network"])
        float_accuracy = task.judge(scores_of(saved.network, saved.front, validation), validation)[0]
        graph = quantized.prepare(saved, project.splits, self.percentile)
        rows = torch.randperm(len(project.splits.train), generator=torch.Generator().manual_seed(0))
        quantized.calibrate(graph, saved.front, project.splits.train.values[rows[: self.calibration_samples].numpy()])
        ptq = task.judge(scores_of(graph.module, saved.front, validation), validation)[0]
        inputs.log(f"post-training: validation {ptq:.2%} (float {float_accuracy:.2%})")
        missed = self._missed(inputs, float_accuracy, ptq)
        curve: list[dict[str, Any]] = []
        method, accuracy = "post-training", ptq
        if self.qat == "always" or (self.qat == "auto" and missed):
            inputs.log(f"quantization-aware training: {missed or 'asked for'}")
            before = {k: v.clone() for k, v in graph.module.state_dict().items()}
            qat, curve = self._train(inputs, graph, saved)
            if qat >= ptq:
                method, accuracy = "quantization-aware", qat
            else:
                inputs.log(f"quantization-aware training reached {qat:.2%}, less than before: not kept")
                graph.module.load_state_dict(before)
        quantized.save(out, graph)
        return {
            "validation_accuracy": accuracy,
            "float_validation_accuracy": float_accuracy,
            "post_training_validation_accuracy": ptq,
            "method": method,
            "why": missed or ("asked for" if self.qat == "always" else "post-training holds the floor"),
            "folded_batchnorms": graph.folded,
            "points": len(graph.plan.points),
            "weights": len(graph.plan.weights),
            "curve": curve,
        }

    def _missed(self, inputs: Inputs, float_accuracy: float, accuracy: float) -> str:
        """Which floor post-training quantization misses on validation data, or ''."""
        target = inputs.project.recipe.head.target
        if target.max_drop is not None and float_accuracy - accuracy > target.max_drop:
            return f"lost {float_accuracy - accuracy:.2%}, more than max_drop {target.max_drop:.2%}"
        if target.min_accuracy is not None and accuracy < target.min_accuracy:
            return f"{accuracy:.2%} is below min_accuracy {target.min_accuracy:.2%}"
        return ""

    def _train(self, inputs: Inputs, graph: Any, saved: Any) -> tuple[float, list[dict[str, Any]]]:
        from edgeloop_exporters.quantization import set_mode, settle
        from edgeloop_pipeline import tasks
        from edgeloop_pipeline.training.loop import fit

        project = inputs.project
        settings = FitSettings(
            epochs=self.qat_epochs, batch=self.batch, learning_rate=self.qat_learning_rate, weight_decay=0.0,
            precision="float32", clip_norm=1.0,
        )  # fmt: skip

        def freeze_ranges(epoch: int) -> None:
            # Ranges follow the weights at first, and stand still for the last half so that the weights can settle.
            set_mode(graph.module, "quantize", "quantize", moving=0.01 if epoch < self.qat_epochs / 2 else 0.0)

        fitted = fit(
            graph.module, saved.front, project.splits, settings, tasks.of(project.splits).loss(),
            seed=project.recipe.head.seed + 2, scratch=inputs.scratch, augment=project.augment, log=inputs.log,
            each_epoch=freeze_ranges,
        )  # fmt: skip
        settle(graph.module)
        return fitted.best.validation_accuracy, [asdict(e) for e in fitted.curve]
