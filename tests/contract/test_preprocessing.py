"""The one preprocessing implementation."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import (
    Bgr,
    CenterCrop,
    Clip,
    Colour,
    Counts,
    FrameStack,
    Grayscale,
    Letterbox,
    LogMel,
    Normalize,
    Pad,
    Resample,
    Reshape,
    Resize,
    ResizeShorter,
    SoundFeatures,
    Step,
    ToFloat,
    Transpose,
    Window,
    prepare,
    resizing,
    sizes_after,
)

DOCS = Path(__file__).parent.parent.parent / "docs"


@given(points=st.integers(1, 200), length=st.integers(1, 50), hop=st.integers(1, 60))
def test_windows_are_slices(points: int, length: int, hop: int) -> None:
    series = np.arange(points * 2, dtype=np.float32).reshape(points, 2)
    if points < length:
        with pytest.raises(DataError, match="a window needs"):
            prepare([Window(length, hop)], series)
        return
    made = prepare([Window(length, hop)], series)
    assert len(made.values) == (points - length) // hop + 1
    for i, window in zip(made.indices, made.values, strict=True):
        np.testing.assert_array_equal(window, series[i * hop : i * hop + length])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_counts_saturate_and_round(values: list[float]) -> None:
    made = prepare([Counts([0.5])], np.array(values)[:, None]).values
    assert made.dtype == np.int16
    np.testing.assert_array_equal(made[0, :, 0], np.clip(np.rint(np.array(values) / 0.5), -32768, 32767))


def test_only_the_window_with_a_missing_value_is_refused() -> None:
    series = np.ones((40, 2))
    series[15, 1] = np.nan
    made = prepare([Window(10, 10), Counts([1.0, 1.0])], series)
    assert made.indices == [0, 2, 3]
    assert list(made.refused) == [1]
    assert "1 of 20 values" in made.refused[1]


def test_every_window_refused() -> None:
    made = prepare([Window(10, 10), Counts([1.0])], np.full((20, 1), np.inf))
    assert made.indices == []
    assert len(made.refused) == 2


def test_grayscale_weights() -> None:
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(prepare([Grayscale()], image).values[0, 0, :, 0], [76, 150, 29, 255])


def test_resize_keeps_means_and_size_one_to_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(prepare([Resize(30, 50)], image).values[0], image)
    made = prepare([Resize(15, 25)], image).values[0]
    assert made.shape == (15, 25, 3)
    # Halving with half-pixel centres averages each 2×2 block.
    blocks = image.reshape(15, 2, 25, 2, 3).astype(float).mean((1, 3))
    assert np.abs(made - blocks).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("steps", "recording", "message"),
    [
        ([Counts([1.0])], np.ones((4, 3)), "3 channels"),
        ([Grayscale()], np.ones((4, 4, 5), np.uint8), "5 channels"),
        ([Resize(4, 4)], np.ones((4, 4), np.uint8), "resize takes images"),
        ([], np.array([["a"]]), "send numbers"),
    ],
)
def test_wrong_recordings(steps: list[Counts | Grayscale | Resize], recording: np.ndarray, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=message):
        prepare(steps, recording)


@given(points=st.integers(1, 60), length=st.integers(1, 60))
def test_pad_centres(points: int, length: int) -> None:
    series = np.arange(1, points + 1, dtype=np.int16)[:, None]
    made = prepare([Pad(length)], series).values[0, :, 0]
    assert made.shape == (length,)
    inside = made[made > 0]
    assert len(inside) == min(points, length) and (np.diff(inside) == 1).all()
    if length >= points:
        before = int(np.flatnonzero(made)[0])
        assert abs(before - (length - points - before)) <= 1


def test_log_mel_measures_decibels_in_the_right_band() -> None:
    """A tone, and one at a tenth of its amplitude: 20 dB apart, each in the band whose centre it is."""
    step = LogMel(rate_hz=8000, window=256, hop=128, bands=40, low_hz=60, high_hz=3900)
    mel = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (60, 3900)), 42)
    centres = 700 * (10 ** (mel / 2595) - 1)
    loud, soft = (round(centres[i] / 31.25) * 31.25 for i in (22, 34))  # whole bins: no leakage into neighbours
    t = np.arange(8000) / 8000
    sound = 20000 * np.sin(2 * np.pi * loud * t) + 2000 * np.sin(2 * np.pi * soft * t)
    made = prepare([step], sound.astype(np.int16)[:, None]).values
    assert made.shape == (1, 61, 40, 1) and made.dtype == np.uint8
    middle = made[0, 30, :, 0].astype(float)
    assert middle[10:28].argmax() + 10 == np.abs(centres[1:-1] - loud).argmin() and middle.max() == 255
    peak = 28 + middle[28:].argmax()
    assert peak == np.abs(centres[1:-1] - soft).argmin()
    assert (middle.max() - middle[peak]) * 80 / 255 == pytest.approx(20, abs=4)  # the bands' widths differ


@pytest.mark.parametrize("sound", [np.zeros((8000, 2), np.int16), np.zeros((8000, 1)), np.zeros((100, 1), np.int16)])
def test_log_mel_refuses(sound: np.ndarray) -> None:
    with pytest.raises(DataError, match="log_mel"):
        prepare([LogMel(rate_hz=8000, window=256, hop=128, bands=40)], sound)


def test_log_mel_of_silence() -> None:
    made = prepare([LogMel(rate_hz=8000, window=256, hop=128, bands=40)], np.zeros((400, 1), np.int16)).values
    assert (made == 0).all()


@pytest.mark.filterwarnings("error")
def test_infinities_of_both_signs_are_refused_without_a_warning() -> None:
    found = prepare([], np.array([[np.inf, -np.inf], [0.0, 1.0]]))
    assert list(found.refused) == [0]
    assert not found.indices


def test_a_channel_with_a_large_offset_keeps_its_resolution() -> None:
    pressure = 1013.0 + np.linspace(-0.5, 0.5, 21)[:, None]
    step = Counts([0.0002], [1013.0])
    made = prepare([step], pressure).values[0, :, 0]
    np.testing.assert_array_equal(made, np.rint((pressure[:, 0] - 1013.0) / 0.0002))
    assert np.ptp(made) == 5000
    assert msgspec.json.encode(Counts([0.5])) == b'{"step":"counts","lsb":[0.5]}'  # older bundles stay canonical
    for wrong in (b'{"lsb":[1,1],"zero":[1]}', b'{"lsb":[0]}'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Counts)


@pytest.mark.parametrize("points", [1, 7, 9, 10, 23])
def test_a_short_series_is_padded_by_its_ends_where_that_is_wanted(points: int) -> None:
    series = np.arange(1.0, points + 1)[:, None]
    made = prepare([Window(10, 5, short="pad")], series).values
    assert made.shape[1:] == (10, 1)
    if points < 10:
        before = (10 - points) // 2
        np.testing.assert_array_equal(made[0, :, 0], np.pad(series[:, 0], (before, 10 - points - before), mode="edge"))
    with pytest.raises(DataError, match="0 points; a window needs 10"):
        prepare([Window(10, 5, short="pad")], series[:0])


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_grey_pictures_become_colour(shape: tuple[int, ...]) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    made = prepare([Colour()], image).values[0]
    assert made.shape == (4, 5, 3) and made.dtype == np.uint8
    np.testing.assert_array_equal(made[..., 0], image if image.ndim == 2 else image[..., 0])


def test_numbers_in_a_row_are_a_series_of_one_channel() -> None:
    made = prepare([Window(4, 4), Counts([1.0])], np.arange(8.0)).values
    assert made.shape == (2, 4, 1)


SOUND, PICTURE = np.ones((4000, 1), np.int16), np.ones((40, 60, 3), np.uint8)
LISTS: list[tuple[list[Step], np.ndarray, int]] = [
    ([Window(4000, 1), Resample(8000, 16000), ToFloat(), SoundFeatures(16000, 400, 160, 512)], SOUND, 2),
    ([Pad(1600), ToFloat(), SoundFeatures(8000, 256, 128, centre="zeros", bands=20), FrameStack(3, 2)], SOUND, 1),
    ([ToFloat(), SoundFeatures(8000, 256, 128, bands=9, log="log10", floor=1e-9, coefficients=4), Window(5, 5)], SOUND, 2),
    ([Pad(4096), LogMel(8000, 256, 128, 20), Reshape([31 * 20])], SOUND, 1),
    ([Pad(4096), LogMel(8000, 256, 128, 20), Transpose([2, 0, 1]), Normalize([1], [2]), Clip(0, 1)], SOUND, 3),
    ([Colour(), Resize(9, 8), Bgr(), Transpose([2, 1, 0])], PICTURE, 3),
    ([Resize(30, 50), ResizeShorter(20), Grayscale()], PICTURE, 1),
    ([ResizeShorter(20), CenterCrop(16, 18), Grayscale()], PICTURE, 3),
    ([Letterbox(32, 24)], PICTURE, 2),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "recording", "decided"), LISTS)
def test_sizes_that_steps_decide_are_those_of_their_samples(steps: list[Step], recording: np.ndarray, decided: int) -> None:
    sizes, sample = sizes_after(steps), prepare(steps, recording).values[0]
    assert len(sizes) == decided
    assert {axis: sample.shape[axis] for axis in sizes} == sizes


def test_the_page_names_every_step_and_every_parameter() -> None:
    page, paragraph = ((DOCS / name).read_text() for name in ("preprocessing.md", "bundle-format.md"))
    for step in get_args(Step):
        tag = step.__struct_config__.tag
        assert f"| `{tag}` |" in page and f"`{tag}`" in paragraph
        rows = page if step is SoundFeatures else next(line for line in page.splitlines() if line.startswith(f"| `{tag}` |"))
        assert not [field for field in step.__struct_fields__ if f"`{field}`" not in rows], tag


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("seed", range(40))
def test_blocks_views_and_halves_change_no_bit(seed: int, method: str) -> None:
    """Against the plain arithmetic on the whole picture: four or sixteen pixels in floats, rows first, then columns."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 60, 2))
    size = (2 * height, 2 * width) if seed % 3 == 0 else tuple(int(n) for n in rng.integers(1, 90, 2))
    x = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    taps = resizing._linear_taps if method == "bilinear" else resizing._cubic_taps
    plain = x.astype(np.float32)
    for axis, wanted in ((1, height), (2, width)):
        shape = (-1, 1, 1) if axis == 1 else (-1, 1)
        parts = [plain.take(index, axis) * weight.reshape(shape) for index, weight in taps(plain.shape[axis], wanted)]
        plain = parts[0]
        for part in parts[1:]:
            plain = plain + part
    expected = x if size == (height, width) else np.clip(np.rint(plain), 0, 255).astype(np.uint8)
    assert np.array_equal(resizing.resized(x, height, width, method, False, "uint8"), expected)  # type: ignore[arg-type]
