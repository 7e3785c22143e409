"""Boxes of layouts with an objectness: only places that are sure enough are read, and the answer is that of all."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloop_contract.boxes import AnchorLevel, Grid, Layout, Rows, find_boxes
from edgeloop_contract.boxes.grids import cells_of_anchors

SIDE = 64
LEVELS = [AnchorLevel(stride=16, sizes=[(10, 14), (30, 20)])]


@pytest.mark.parametrize("layout", [Rows(objectness=True), Grid(rows="output0", levels=LEVELS)])
@pytest.mark.parametrize("spoiled", [False, True])
def test_the_surest_places_are_those_of_all(layout: Layout, spoiled: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 2, (32, 8)).astype(np.float32)
    shares = 1 / (1 + np.exp(-rows[:, 4:].astype(np.float64)))
    if isinstance(layout, Rows):
        rows[:, :4], rows[:, 4:] = rng.uniform(20, 40, (32, 4)), shares
    found = find_boxes(layout, {"output0": rows}, SIDE, SIDE, score_threshold=0.3, iou_threshold=1.0, most=100)
    wanted = shares[:, 0] * shares[:, 1:].max(1)
    assert 3 < len(found.scores) == (wanted >= 0.3).sum() < 30
    assert np.allclose(found.scores, np.sort(wanted[wanted >= 0.3])[::-1], atol=1e-6)
    if spoiled:  # NaN at one place takes that place alone
        rows[int(np.argmax(wanted)), 4:] = np.nan
        again = find_boxes(layout, {"output0": rows}, SIDE, SIDE, score_threshold=0.3, iou_threshold=1.0, most=100)
        assert np.array_equal(again.scores, found.scores[1:])


def test_anchors_are_made_once() -> None:
    first, again = (cells_of_anchors(list(LEVELS), SIDE, SIDE, grid_by_grid=True) for _ in range(2))
    assert all(a is b for a, b in zip(first, again, strict=True))
    other = cells_of_anchors(LEVELS, SIDE, SIDE, grid_by_grid=False)
    assert not np.array_equal(first[0], other[0]) and first[2].shape == (32, 2)
