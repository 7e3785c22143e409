"""Smartwatch recordings of seven shoulder exercises (Burns et al. 2018), split by subject: 6 train, 1 validates, 3 test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data import Split, Splits
from edgeloop_pipeline.data.download import PackageFile

SOURCE = PackageFile(
    package="seglearn",
    version="1.2.5",
    file="seglearn/data/watch_dataset.npy",
    sha256="eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
)
SUBJECTS = {"train": (1, 2, 3, 4, 5, 6), "validation": (7,), "test": (8, 9, 10)}
AT_HOME = {"train": (1, 2, 3), "validation": (6,), "test": (4, 5)}


class Watch:
    """140 series: 10 subjects, both arms, 7 exercises; 50 Hz; acceleration in g, rotation in rad/s. `subjects`: by split."""

    def __init__(self, subjects: dict[str, tuple[int, ...]]) -> None:
        self.subjects = subjects

    def files(self) -> Sequence[Path]:
        return [SOURCE.path()]

    def load(self) -> Splits:
        # A pickle, loaded only after its digest was checked.
        data = np.load(SOURCE.path(), allow_pickle=True).item()
        series, labels, subjects = data["X"], np.asarray(data["y"]), np.asarray(data["subject"])
        if len(series) != len(labels):
            raise DataError(f"{SOURCE.file}: {len(series)} series but {len(labels)} labels; fetch it again")

        def split(name: str) -> Split:
            rows = np.flatnonzero(np.isin(subjects, self.subjects[name]))
            return Split([np.asarray(series[i]) for i in rows], labels[rows], np.array([f"subject {s}" for s in subjects[rows]]))

        return Splits(tuple(data["y_labels"]), split("train"), split("validation"), split("test"))


def watch() -> Watch:
    return Watch(SUBJECTS)


def at_home() -> Watch:
    """Without subjects 7 to 10, who are wearers in the field: for the closed loop (make loop)."""
    return Watch(AT_HOME)


def augment(batch: Any, generator: Any) -> Any:
    """Another wrist, worn a little differently: mirrored, turned by some degrees, stronger or weaker.

    `batch`: (N, T, 6) int16 counts, acceleration then rotation, both in the watch's axes; the same comes back as float.
    """
    import torch

    x = batch.float()
    n = len(x)
    vectors = x.reshape(n, x.shape[1], 2, 3)
    vectors = vectors @ _rotations(n, generator, max_angle=0.5)[:, None].transpose(-1, -2)
    strength = 1 + 0.2 * (2 * torch.rand((n, 1, 2, 1), generator=generator) - 1)
    noise = 20 * torch.randn(vectors.shape, generator=generator)
    return (vectors * strength + noise).reshape(x.shape)


def _rotations(n: int, generator: Any, max_angle: float) -> Any:
    """(n, 3, 3) rotations about random axes by up to `max_angle` radians (Rodrigues' formula)."""
    import torch

    axis = torch.nn.functional.normalize(torch.randn((n, 3), generator=generator), dim=1)
    angle = (2 * torch.rand((n, 1, 1), generator=generator) - 1) * max_angle
    zero = torch.zeros(n)
    k = torch.stack([zero, -axis[:, 2], axis[:, 1], axis[:, 2], zero, -axis[:, 0], -axis[:, 1], axis[:, 0], zero], dim=1).reshape(
        n, 3, 3
    )
    return torch.eye(3) + torch.sin(angle) * k + (1 - torch.cos(angle)) * (k @ k)
