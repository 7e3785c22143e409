"""Masks of single things: run lengths from a part of the picture, overlaps, and bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeloop_agent.box_answers import Box, box_answers
from edgeloop_agent.regions import moved
from edgeloop_contract.boxes import Final, Found, Placement
from edgeloop_contract.errors import DataError
from edgeloop_contract.instances import grid_masks, mask_overlap, masks_in_picture, run_lengths_at
from edgeloop_contract.masks import RunLengths, run_lengths
from edgeloop_contract.tasks import Instances

TASK = Instances(labels=["thing"], decode=Final(rows="rows", coefficients=2), prototypes="maps", score_threshold=0.0)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 2**49),
)
def test_runs_of_a_part_are_those_of_the_whole(
    rows: int, columns: int, top: int, left: int, below: int, right: int, bits: int
) -> None:
    mask = np.array([bits >> i & 1 for i in range(rows * columns)], bool).reshape(rows, columns)
    whole = np.zeros((top + rows + below, left + columns + right), bool)
    whole[top : top + rows, left : left + columns] = mask
    assert run_lengths_at(mask, top, left, *whole.shape) == run_lengths(whole)


def outputs(boxes: list[list[float]], maps: np.ndarray) -> dict[str, np.ndarray]:
    rows = np.array([[*box, 0.9 - 0.1 * i, 0, 1.0, 0.0] for i, box in enumerate(boxes)], np.float32)
    return {"rows": rows, "maps": maps.astype(np.float32)}


def test_a_box_moves_with_its_mask_out_of_a_region() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    box = Box("thing", 0.9, [2.0, 1.0, 5.0, 3.0], mask=RunLengths([4, 6], run_lengths(mask)))
    (whole,) = moved([box], (10, 20, 16, 24), (40, 50))
    assert whole.box == [12, 21, 15, 23] and whole.mask is not None and whole.mask.size == [40, 50]
    assert whole.mask.pixels()[21:23, 12:15].all() and whole.mask.pixels().sum() == 6


def test_a_thing_without_a_pixel_is_left_out() -> None:
    maps = np.full((2, 4, 4), -1.0)
    maps[:, :, :2] = 1
    found = box_answers(TASK, outputs([[0, 0, 6, 8], [5, 0, 8, 8]], maps), 8, 8, None)
    assert [box.box for box in found] == [[0, 0, 6, 8]]
    assert found[0].mask is not None and found[0].mask.pixels()[:, :3].all() and not found[0].mask.pixels()[:, 5:].any()


def test_overlaps_of_masks_in_cells() -> None:
    maps = np.full((2, 4, 4), -1.0)
    maps[:, :, :2] = 1
    given_outputs = outputs([[0, 0, 8, 8], [0, 0, 2, 8], [4, 0, 8, 8]], maps)
    found = Found(given_outputs["rows"][:, :4], np.ones(3), np.zeros(3, int), np.arange(3))
    masks = grid_masks(TASK, given_outputs, found, 8, 8)
    assert masks.sum((1, 2)).tolist() == [8, 4, 0]
    np.testing.assert_allclose(mask_overlap(masks, masks), [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]])
    assert mask_overlap(masks[:0], masks).shape == (0, 3)


def test_memory_does_not_grow_with_boxes() -> None:
    place, maps = Placement(2160, 3840, 320 / 3840, 320 / 3840, 0, 70), np.random.default_rng(0).normal(0, 1, (2, 80, 80))
    peaks = []
    for count in (1, 6):
        given_outputs = outputs([[0, 70, 320, 250]] * count, maps)
        found = Found(given_outputs["rows"][:, :4], np.ones(count), np.zeros(count, int), np.arange(count))
        tracemalloc.start()
        for mask, top, left in masks_in_picture(TASK, given_outputs, found, place.to_picture(found.boxes), 320, 320, place):
            assert mask.shape == (2160, 3840) and (top, left) == (0, 0)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2160 / 3840)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1.1 and max(peaks) < 4  # bytes for each pixel of the picture


@pytest.mark.parametrize("maps", [np.zeros((3, 4, 4)), np.zeros((4, 4)), np.zeros((2, 0, 4))])
def test_other_maps_are_one_sentence(maps: np.ndarray) -> None:
    with pytest.raises(DataError, match="2 maps are needed"):
        box_answers(TASK, outputs([[0, 0, 8, 8]], maps), 8, 8, None)
