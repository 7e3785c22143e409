"""Small encoders of sound, and recordings for them."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from token_models import Block

__all__ = ["BANDS", "FRAMES", "POINTS", "RATE", "encoder", "recordings"]

RATE, POINTS, BANDS, FRAMES = 8000, 4000, 32, 30


def recordings(folder: Path, count: int) -> Path:
    """Half a second each: two tones that rise or fall, and noise."""
    folder.mkdir()
    rng, t = np.random.default_rng(0), np.arange(POINTS) / RATE
    for i in range(count):
        low, high = rng.uniform(150, 800), rng.uniform(900, 3000)
        sound = np.sin(2 * np.pi * (low + rng.uniform(-200, 200) * t) * t) + 0.5 * np.sin(2 * np.pi * high * t)
        sound = sound * np.hanning(POINTS) ** rng.uniform(0.2, 1.0) + rng.normal(0, 0.05, POINTS)
        with wave.open(str(folder / f"{i:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((sound * rng.uniform(4000, 12000)).clip(-32768, 32767).astype("<i2").tobytes())
    return folder


class Encoder(nn.Module):
    """Sound to a vector: two blocks over frames of a spectrum (N, frames, bands), or of convolutions of the sound (N, 1, points)."""

    def __init__(self, raw: bool, width: int = 64) -> None:
        super().__init__()
        self.raw = raw
        stem = [nn.Conv1d(1, 32, 10, 5), nn.GELU(), nn.Conv1d(32, width, 8, 4), nn.GELU(), nn.Conv1d(width, width, 4, 4), nn.GELU()]
        self.stem = nn.Sequential(*stem) if raw else nn.Linear(BANDS, width)
        places = torch.arange(64)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        self.register_buffer("places", torch.cat([places.sin(), places.cos()], 1))
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(1, 2) if self.raw else self.stem(x)
        x = self.norm(x) + self.places[: x.shape[1]] / math.sqrt(2)
        for block in self.blocks:
            x = block(x, torch.zeros(()))
        return x.mean(1)


def encoder(path: Path, raw: bool) -> Path:
    torch.manual_seed(2)
    x = torch.rand((2, 1, POINTS) if raw else (2, FRAMES, BANDS))
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Encoder(raw).eval(), (x,), str(path), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), input_names=["sound"],
            output_names=["vector"], external_data=False, verbose=False, opset_version=18,
        )  # fmt: skip
    return path
