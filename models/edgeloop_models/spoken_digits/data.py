"""Free Spoken Digit Dataset (Jackson et al.): ten digits, six speakers, 8 kHz; its official split, or two speakers held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.sources import read_wav
from edgeloop_pipeline.data import Split, Splits
from edgeloop_pipeline.fetch import DownloadedFolder

REVISION = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
SOURCE = DownloadedFolder(
    url=f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{REVISION}.tar.gz",
    sha256="99aa5e3a7c822ab55b2a3b47e0b05aeb9f011c54837a12e3831ad24108330829",
    suffix=".wav",
    # Beside a checkout of this repository, where a copy may lie.
    places=(Path(__file__).parents[3].parent / "shared" / "data" / "fsdd" / "recordings",),
)
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")


@dataclass(frozen=True)
class Digits:
    """`unseen`: False for the official split (recordings 0–4 test, here 5–9 validate); True: speakers nobody trained on."""

    unseen: bool

    def files(self) -> Sequence[Path]:
        return [SOURCE.path()]

    def load(self) -> Splits:
        rows: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
        for path in sorted(SOURCE.path().glob("*.wav")):
            _, speaker, number = path.stem.split("_")
            rows[self._split(speaker, int(number))].append(path)
        return Splits(tuple(str(d) for d in range(10)), **{name: _read(paths) for name, paths in rows.items()})

    def _split(self, speaker: str, number: int) -> str:
        if self.unseen:
            return {"theo": "test", "george": "test", "lucas": "validation"}.get(speaker, "train")
        return "test" if number < 5 else "validation" if number < 10 else "train"


def _read(paths: list[Path]) -> Split:
    labels = np.array([int(p.stem[0]) for p in paths])
    return Split([read_wav(p) for p in paths], labels, np.array([p.stem.split("_")[1] for p in paths]), [p.name for p in paths])


def official() -> Digits:
    return Digits(unseen=False)


def unseen_speakers() -> Digits:
    return Digits(unseen=True)


SHIFT, STRETCH, PITCH = 0.2, 0.15, 0.12  # shares: of the recording's length, of its speed, of the frequency axis
NOISE_DB = (25.0, 60.0)  # below the loudest value
RANGE_DB = 80.0
MASKS, FRAMES, BANDS = 2, 10, 5  # SpecAugment (Park et al. 2019): how many masks, and how large at most


def augment(batch: Any, generator: Any) -> Any:
    """Another moment, speed, vocal tract and room; then SpecAugment. `batch`: (N, frames, bands, 1) uint8 log-mel."""
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    n = len(batch)

    def around(share: float) -> Any:
        return share * (2 * torch.rand(n, generator=generator) - 1)

    zero = torch.zeros(n)
    # x is the frequency axis: scaled about its low end, as a longer or shorter vocal tract does.
    pitch, stretch = 1 + around(PITCH), 1 + around(STRETCH)
    theta = torch.stack([torch.stack([pitch, zero, pitch - 1], 1), torch.stack([zero, stretch, 2 * around(SHIFT)], 1)], 1)
    x = batch[..., 0].float()[:, None]
    # Around the recording is silence: 0 counts.
    x = grid_sample(x, affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)[:, 0]
    low, high = NOISE_DB
    level = -(low + (high - low) * torch.rand((n, 1, 1), generator=generator))
    noise = level + 3 * torch.randn(x.shape, generator=generator)
    x = (torch.logaddexp((x / 255 - 1) * RANGE_DB * _NATS, noise * _NATS) / _NATS / RANGE_DB + 1) * 255
    return _masked(x.clamp(0, 255), generator).round().to(torch.uint8)[..., None]


_NATS = float(np.log(10) / 10)  # of a decibel


def _masked(x: Any, generator: Any) -> Any:
    import torch

    n = len(x)
    for axis, most in ((1, FRAMES), (2, BANDS)):
        size = x.shape[axis]
        at = torch.arange(size)
        for _ in range(MASKS):
            length = torch.randint(0, most + 1, (n, 1), generator=generator)
            start = torch.randint(0, size, (n, 1), generator=generator)
            hidden = (at >= start) & (at < start + length)
            x = x.masked_fill(hidden[:, :, None] if axis == 1 else hidden[:, None, :], 0)
    return x
