"""Samples as a person can look at them: an image as PNG, a series as lines in SVG; without a picture library."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 640.0, 90.0
MAX_POINTS = 640


def is_image(sample: Array) -> bool:
    return sample.ndim == 3


def png(image: Array) -> bytes:
    """(H, W, C), grey or in colour, from its lowest to its highest value where it is not in bytes (PNG, 3rd edition)."""
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = np.rint((image - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
    colours = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    rows = np.concatenate([np.zeros((len(colours), 1), np.uint8), colours.reshape(len(colours), -1)], axis=1)
    head = struct.pack(">IIBBBBB", colours.shape[1], colours.shape[0], 8, 2 if colours.shape[-1] == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def lines(series: Array) -> list[tuple[str, str, str, str]]:
    """Of (T, C) or (T,): each channel's name, the points of an SVG polyline, lowest and highest value."""
    x = series.reshape(len(series), -1).astype(np.float64)
    x = x[:: -(-len(x) // MAX_POINTS)]
    found = []
    for c in range(min(x.shape[1], 16)):
        low, high = float(x[:, c].min()), float(x[:, c].max())
        y = HEIGHT - (x[:, c] - low) / ((high - low) or 1.0) * HEIGHT
        points = " ".join(f"{i * WIDTH / max(1, len(x) - 1):.1f},{v:.1f}" for i, v in enumerate(y))
        found.append((f"channel {c}", points, f"{low:.4g}", f"{high:.4g}"))
    return found
