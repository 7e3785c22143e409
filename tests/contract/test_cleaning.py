"""Cleaning: what is repaired, what is refused and under which name, and that it goes from recipe to device."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgeloop_contract.cleaning import (
    Blurred,
    Clamp,
    Clipped,
    Exposure,
    FillMissing,
    Flat,
    Hampel,
    NearDuplicate,
    Resample,
    Silent,
    Step,
    Stuck,
    clean,
    thumbnail,
)  # fmt: skip

NAN = float("nan")
RAMP = np.arange(20.0)[:, None]
TONE = (8000 * np.sin(np.arange(800) / 5)).astype(np.int16)[:, None]
NOISE = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)


def with_gap(start: int, stop: int) -> np.ndarray:
    x = RAMP.copy()
    x[start:stop] = NAN
    return x


# name → step, recording, repaired values by name, part of the refusal ('' : accepted)
CASES: dict[str, tuple[Any, np.ndarray, dict[str, int], str]] = {
    "a short gap": (FillMissing(max_gap=3), with_gap(5, 8), {"fill_missing": 3}, ""),
    "a gap at the end": (FillMissing(max_gap=3), with_gap(18, 20), {"fill_missing": 2}, ""),
    "a long gap": (FillMissing(max_gap=3), with_gap(5, 9), {}, "misses 4 points in a row"),
    "nothing but gaps": (FillMissing(max_gap=30), with_gap(0, 20), {}, ""),
    "infinite values": (FillMissing(max_gap=1), np.where(RAMP == 3, np.inf, RAMP), {"fill_missing": 1}, ""),
    "integers have no gaps": (FillMissing(max_gap=1), TONE, {}, ""),
    "out of range": (Clamp(low=0, high=18), RAMP, {"clamp": 1}, ""),
    "mostly out of range": (Clamp(low=0, high=5), RAMP, {}, "14 of 20 values lie outside 0 to 5"),
    "a spike": (Hampel(), np.where(RAMP == 9, 500, RAMP), {"hampel": 1}, ""),
    "no spike": (Hampel(), RAMP, {}, ""),
    "stuck": (Stuck(max_points=5), np.r_[RAMP, np.full((6, 1), 3.0)], {}, "repeats one value for 6 points"),
    "not stuck": (Stuck(max_points=6), np.r_[RAMP, np.full((6, 1), 3.0)], {}, ""),
    "flat": (Flat(min_std=0.1), RAMP * 1e-3, {}, "no channel moves"),
    "clipped": (Clipped(), np.where(TONE > 4000, 32767, TONE).astype(np.int16), {}, "of the sound is clipped"),
    "a loud tone": (Clipped(), TONE, {}, ""),
    "silence": (Silent(), (TONE // 8000).astype(np.int16), {}, "dBFS, below -60: silence"),
    "a tone": (Silent(), TONE, {}, ""),
    "dark": (Exposure(), (NOISE // 100).astype(np.uint8), {}, "too dark"),
    "over-exposed": (Exposure(), np.full((8, 8), 250, np.uint8), {}, "over-exposed"),
    "a picture": (Exposure(), NOISE, {}, ""),
    "blurred": (Blurred(min_variance=10), np.full((40, 50, 3), 90, np.uint8), {}, "blurred"),
    "sharp": (Blurred(min_variance=10), NOISE, {}, ""),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_repaired_and_what_is_refused(name: str) -> None:
    step, recording, repaired, said = CASES[name]
    before = recording.copy()
    found = clean([step], recording)
    assert np.array_equal(recording, before, equal_nan=recording.dtype.kind == "f")  # the source's array is not ours to change
    if name == "nothing but gaps":
        assert found.refused  # there is nothing to draw a line from
        return
    assert found.repaired == repaired and said in found.refused and bool(found.refused) == bool(said)
    assert found.values.dtype == recording.dtype and found.values.shape == recording.shape


def test_what_repairs_put_there() -> None:
    assert np.array_equal(clean([FillMissing(max_gap=3)], with_gap(5, 8)).values, RAMP)
    assert clean([Hampel()], np.where(RAMP == 9, 500, RAMP)).values[9] == 10  # the median of its neighbours and itself
    assert clean([Clamp(low=0, high=18)], RAMP).values.max() == 18


def test_uneven_times_come_onto_an_even_grid() -> None:
    rng = np.random.default_rng(0)
    times = np.sort(np.arange(0, 2, 0.02) + rng.uniform(-0.004, 0.004, 100))
    series = np.c_[np.sin(3 * times), times]
    found = clean([Resample(rate_hz=50, max_gap_seconds=0.1)], series, times)
    grid = times[0] + np.arange(len(found.values)) / 50
    assert np.abs(found.values[:, 1] - grid).max() < 1e-9 and np.abs(found.values[:, 0] - np.sin(3 * grid)).max() < 2e-3
    late = np.r_[times[:50], times[50:] + 0.5]
    assert "0.5" in clean([Resample(rate_hz=50, max_gap_seconds=0.1)], series, late).refused
    shuffled = rng.permutation(100)  # packets that overtook each other
    assert np.allclose(clean([Resample(rate_hz=50, max_gap_seconds=0.1)], series[shuffled], times[shuffled]).values, found.values)
    assert clean([Resample(rate_hz=50, max_gap_seconds=0.1)], series).repaired == {}  # no times: taken for even


def test_near_duplicates() -> None:
    step = NearDuplicate(max_difference=2)
    base = thumbnail(NOISE)
    assert base.shape == (16, 16) and not step.same_as(base, None)
    assert step.same_as(thumbnail(np.clip(NOISE.astype(int) + 1, 0, 255)), base)
    assert not step.same_as(thumbnail(np.clip(NOISE.astype(int) + 20, 0, 255)), base)
    assert thumbnail(np.zeros((3, 5), np.uint8)).shape == (3, 5)


EVERY = [
    FillMissing(max_gap=3), Clamp(low=-5, high=5), Hampel(), Stuck(max_points=4), Flat(min_std=0.01), Clipped(), Silent(),
    Exposure(), Blurred(min_variance=1), Resample(rate_hz=10, max_gap_seconds=1),
]  # fmt: skip


@given(arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=3, max_side=12), elements=st.floats(width=32)))
def test_whatever_comes_it_ends_in_an_answer(recording: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        for step in EVERY:
            found = clean([step], recording)
            assert found.refused or found.values.shape == recording.shape


def test_steps_are_settings_that_are_checked() -> None:
    for step in EVERY:
        assert msgspec.convert(msgspec.to_builtins(step), Step) == step
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"step": "fill_missing", "max_gap": 0}, Step)
