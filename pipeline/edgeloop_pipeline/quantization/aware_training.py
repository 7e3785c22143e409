"""Training of a quantized graph: with the labels' loss, or with the float network as its teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgeloop_exporters.quantization import set_mode, settle
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.networks.saved_network import Saved
from edgeloop_pipeline.quantization.quantized_graph import Graph
from edgeloop_pipeline.quantization.settings import QuantizeSettings
from edgeloop_pipeline.results.training import Epoch
from edgeloop_pipeline.tasks.registry import task_for
from edgeloop_pipeline.training.fit import fit
from edgeloop_pipeline.training.scoring import channels_last, copy_of, device
from edgeloop_pipeline.training.settings import FitSettings

if TYPE_CHECKING:
    from edgeloop_pipeline.recipe.inputs import Inputs

__all__ = ["trained_copy"]

TEMPERATURE = 2.0


def trained_copy(
    calibrated: Graph,
    inputs: Inputs,
    saved: Saved,
    splits: PreparedSplits,
    settings: QuantizeSettings,
    seed: int,
    scratch: Path,
    distill: bool,
) -> tuple[Graph, list[Epoch]]:
    """The graph trained, and its epochs; `calibrated` stays unchanged. `distill`: the float network teaches, and needs no labels.

    `scratch`: of this training alone; an interrupted one resumes from it.
    """
    graph, task = replace(calibrated, module=copy_of(calibrated.module)), task_for(splits)
    # Steps are relative to a tensor's weights: after equalization, and with outliers, tensors differ by orders of magnitude.
    fit_settings = FitSettings(
        epochs=settings.qat_epochs, batch=settings.batch, learning_rate=settings.qat_learning_rate, weight_decay=0.0,
        optimizer="adafactor", schedule="cosine", precision="float32", keep="last",
    )  # fmt: skip

    def freeze_ranges(epoch: int) -> None:
        # Ranges follow the weights at first, and stay fixed for the last half so that the weights can converge.
        set_mode(graph.module, "quantize", "quantize", settings.ranges if epoch < settings.qat_epochs / 2 else None)

    scratch.mkdir(parents=True, exist_ok=True)
    fitted = fit(
        graph.module, saved.normalization, splits, fit_settings, _teacher_loss(saved, task) if distill else task.loss(), seed=seed,
        scratch=scratch, augment=inputs.project.augment, log=inputs.log, watch=inputs.watch, each_epoch=freeze_ranges,
    )  # fmt: skip
    set_mode(graph.module, "quantize", "quantize")
    settle(graph.module)
    return graph, fitted.curve


def _teacher_loss(saved: Saved, task: Any) -> Any:
    """The distillation loss with the float network as teacher."""
    teacher = channels_last(saved.network.eval().to(device()))

    def loss(scores: Tensor, labels: Tensor, x: Tensor, autocast: Any) -> Tensor:
        with torch.no_grad(), autocast():
            wanted = teacher(x)
        return task.imitation(scores, wanted.float(), TEMPERATURE)  # type: ignore[no-any-return]

    return loss
