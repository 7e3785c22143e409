"""Free Spoken Digit Dataset (Jackson et al.): ten digits, six speakers, 8 kHz; its official split, or two speakers held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.sources.readers import read_wav
from edgeloop_pipeline.data import Split, Splits
from edgeloop_pipeline.data.download import DownloadedFolder

REVISION = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
SOURCE = DownloadedFolder(
    url=f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{REVISION}.tar.gz",
    sha256="99aa5e3a7c822ab55b2a3b47e0b05aeb9f011c54837a12e3831ad24108330829",
    suffix=".wav",
    # Beside a checkout of this repository, where a copy may lie.
    places=(Path(__file__).parents[3].parent / "shared" / "data" / "fsdd" / "recordings",),
)


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
        return Splits(tuple(str(d) for d in range(10)), *(_read(rows[name]) for name in ("train", "validation", "test")))

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

    n, frames, bands = batch.shape[:3]
    draws = torch.rand((4, n, 1), generator=generator)
    stretch, shift, pitch = 1 + STRETCH * (2 * draws[0] - 1), SHIFT * (2 * draws[1] - 1), 1 + PITCH * (2 * draws[2] - 1)
    # Which frame and band each one comes from; the frequency axis scales about its low end, as a longer vocal tract does.
    frame = ((torch.arange(frames) - frames / 2) * stretch + frames * (shift + 0.5)).round().long()
    band = (torch.arange(bands) * pitch).round().long()
    outside = (frame < 0) | (frame >= frames)
    rows = frame.clamp(0, frames - 1) * bands
    index = rows[:, :, None] + band.clamp(max=bands - 1)[:, None, :]
    x = batch.reshape(n, -1).gather(1, index.view(n, -1)).view(n, frames, bands)
    low, high = NOISE_DB
    level = 255 * (1 - (low + (high - low) * draws[3]) / RANGE_DB)
    # The louder of sound and noise, as decibels hardly add; noise of ±5 dB, independent in time and frequency: five
    # bits of a random byte, eight bytes a draw, because drawing each value would cost more than all the rest.
    draw = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(generator=generator).view(torch.uint8)
    noise = (draw[: x.numel()] & 31).view(x.shape).to(torch.int16) - 16 + level.to(torch.int16)[:, :, None]
    x = torch.maximum(x.masked_fill(outside[:, :, None], 0), noise.clamp_(0, 255).to(torch.uint8))
    return x.masked_fill(_hidden(n, frames, FRAMES, generator)[:, :, None] | _hidden(n, bands, BANDS, generator)[:, None, :], 0)[
        ..., None
    ]


def _hidden(n: int, size: int, most: int, generator: Any) -> Any:
    """(n, size): what `MASKS` masks of up to `most` cover."""
    import torch

    start = torch.randint(0, size, (MASKS, n, 1), generator=generator)
    length = torch.randint(0, most + 1, (MASKS, n, 1), generator=generator)
    at = torch.arange(size)
    return ((at >= start) & (at < start + length)).any(0)
