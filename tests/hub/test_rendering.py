"""Samples as pictures: what the page shows is what the model saw."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeloop_hub.web.rendering import lines, png


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "L"), (3, "RGB"), (6, "RGB")])
def test_an_image_of_bytes_keeps_its_values(channels: int, mode: str) -> None:
    values = np.random.default_rng(0).integers(0, 255, (5, 7, channels)).astype(np.uint8)
    shown = Image.open(io.BytesIO(png(values)))
    assert shown.mode == mode
    assert (np.asarray(shown).reshape(5, 7, -1) == values[..., : 3 if mode == "RGB" else 1]).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_other_values_are_stretched_to_bytes(dtype: Any) -> None:
    values = np.array([[[-500], [0], [500]]], dtype)
    assert np.asarray(Image.open(io.BytesIO(png(values)))).tolist() == [[0, 128, 255]]
    assert not np.asarray(Image.open(io.BytesIO(png(np.full((2, 2, 1), 7, dtype))))).any()


def test_a_series_has_a_line_for_each_channel() -> None:
    series = np.stack([np.arange(2000.0), np.zeros(2000)], axis=1)
    rising, flat = lines(series)
    assert (rising.name, rising.low, flat.high) == ("channel 0", "0", "0")
    assert len(rising.points.split()) <= 640
