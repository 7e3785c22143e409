"""Cached teacher scores for every sample of every epoch, on disk: the slow part of distillation runs once for many students.

Beyer et al. 2022 call this consistent teaching: teacher and student see the same augmentation. The cache is possible because
augmentation depends only on the seed, the epoch and the sample's place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgeloop_contract.files import publishing
from edgeloop_pipeline.cache.user_folder import cache_folder
from edgeloop_pipeline.training.batches import Batches
from edgeloop_pipeline.training.precision import Precision
from edgeloop_pipeline.training.scoring import channels_last, device


def size_bytes(epochs: int, samples: int, outputs: int) -> int:
    return 2 * epochs * samples * outputs


def scores(
    key: str, teacher: Callable[[Tensor], Tensor], batches: Batches, epochs: int, outputs: int, precision: Precision,
    log: Callable[[str], None],
) -> Any:  # fmt: skip
    """The scores, float16 (samples, outputs) per epoch, mapped read-only. Epochs from an earlier run under `key` are reused.

    Only whole epochs count as written; a killed run continues with the next one. Two runs that write the same key at once write
    the same values.
    """
    folder = cache_folder() / "teacher-scores" / key
    folder.mkdir(parents=True, exist_ok=True)
    done = len(list(folder.glob("epoch-*.npy")))
    for epoch in range(epochs):
        if not (folder / f"epoch-{epoch}.npy").exists():
            made = _epoch(teacher, replace(batches, teacher_scores=None, accumulate=1), epoch, outputs, precision)
            _write(folder / f"epoch-{epoch}.npy", made)
            log(f"teacher: epoch {epoch + 1}/{epochs} of its scores")
    if done >= epochs:
        log(f"teacher: {epochs} epochs of its scores were kept by an earlier run")
    return [np.load(folder / f"epoch-{epoch}.npy", mmap_mode="r") for epoch in range(epochs)]


def _epoch(teacher: Callable[[Tensor], Tensor], batches: Batches, epoch: int, outputs: int, precision: Precision) -> Any:
    found = np.zeros((len(batches.samples), outputs), np.float16)
    where = device()
    for step in range(batches.steps):
        rows = batches.rows(epoch, step).numpy()
        with torch.no_grad(), precision.autocast():
            made = [teacher(x.to(where)).float().flatten(1).cpu() for x, _ in batches[epoch, step]]
        found[rows] = torch.cat(made).numpy().astype(np.float16)
    return found


def _write(path: Path, values: Any) -> None:
    with publishing(path, several_writers=True) as file:
        np.save(file, values, allow_pickle=False)


def ensemble(networks: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    """A network whose scores are the mean of the networks' scores."""

    def mean(x: Tensor) -> Tensor:
        return torch.stack([network(x).float() for network in networks]).mean(0)

    return networks[0] if len(networks) == 1 else mean


def ready(network: nn.Module) -> nn.Module:
    placed: nn.Module = channels_last(network.eval().to(device()))
    return placed


def onnx_teacher(path: Path) -> Callable[[Tensor], Tensor]:
    """A module that runs an ONNX file: it takes the normalized batch (N, channels, ...) and returns scores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=onnxruntime.get_available_providers())
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.float().cpu().contiguous().numpy()})[0]).to(x.device)

    return run
