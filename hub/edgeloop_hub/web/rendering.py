"""Samples as a person can look at them: an image as PNG, a series as lines in SVG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array

WIDTH, HEIGHT = 640.0, 90.0
MAX_POINTS = 640
MAX_CHANNELS = 16


@dataclass(frozen=True)
class Line:
    """A channel of a series. `points`: of an SVG polyline; `low`, `high`: its extremes; `length`: values in time."""

    name: str
    points: str
    low: str
    high: str
    length: int = 0


def is_image(sample: Array) -> bool:
    return sample.ndim == 3


def png(image: Array) -> bytes:
    """(H, W, C), grey or in colour; from its lowest to its highest value where it is not in bytes."""
    from PIL import Image

    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = np.rint((image - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., 0]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(file, "png")
    return file.getvalue()


def lines(series: Array) -> list[Line]:
    """The channels of (T, C) or (T,), the first MAX_CHANNELS of them."""
    x = series.reshape(len(series), -1).astype(np.float64)
    x = x[:: -(-len(x) // MAX_POINTS)]
    channels = []
    for c in range(min(x.shape[1], MAX_CHANNELS)):
        low, high = float(x[:, c].min()), float(x[:, c].max())
        y = HEIGHT - (x[:, c] - low) / ((high - low) or 1.0) * HEIGHT
        points = " ".join(f"{i * WIDTH / max(1, len(x) - 1):.1f},{v:.1f}" for i, v in enumerate(y))
        channels.append(Line(f"channel {c}", points, f"{low:.4g}", f"{high:.4g}", len(series)))
    return channels
