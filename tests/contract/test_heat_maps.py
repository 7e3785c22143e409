"""Points within the cells of a map: how far each way of refining is off, and maps that say no peak."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloop_contract.boxes import PointMaps, find_boxes

ROWS, COLUMNS, STRIDE = 64, 48, 4


def maps(y: np.ndarray, x: np.ndarray, deviation: float = 2.0) -> np.ndarray:
    """A Gaussian for each point, as they are taught."""
    down, across = np.mgrid[:ROWS, :COLUMNS]
    off = (down - y[:, None, None]) ** 2 + (across - x[:, None, None]) ** 2
    return np.exp(-off / (2 * deviation**2)).astype(np.float32)


def points(given: np.ndarray, **how: object) -> np.ndarray:
    layout = PointMaps(points=len(given), **how)  # type: ignore[arg-type]
    size = given.shape[1] * STRIDE, given.shape[2] * STRIDE
    found = find_boxes(layout, {"maps": given[None]}, *size, score_threshold=0.0, iou_threshold=1.0, most=1)
    assert found.points is not None
    return found.points[0]


@pytest.mark.parametrize(("refine", "least", "most"), [("none", 0.2, 0.3), ("quarter", 0.1, 0.15), ("dark", 0.0, 0.02)])
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_how_far_points_are_off(refine: str, least: float, most: float, activation: str) -> None:
    """In cells, with noise: the mean distance along an axis."""
    rng = np.random.default_rng(0)
    y, x = rng.uniform(4, ROWS - 5, 200), rng.uniform(4, COLUMNS - 5, 200)
    given = maps(y, x) + rng.normal(0, 0.01, (200, ROWS, COLUMNS)).astype(np.float32)
    if activation == "sigmoid":
        given = np.clip(given, 1e-4, 1 - 1e-4)
        given = np.log(given / (1 - given))
    found = points(given, refine=refine, activation=activation)
    off = np.abs(found[:, :2] / STRIDE - np.stack([x, y], 1)).mean()
    assert least <= off <= most, off


def test_maps_without_a_peak_stay_in_their_cell() -> None:
    """Flat ones, ones whose peak lies at the edge, and ones that are smaller than the smoothing."""
    flat, edge = np.zeros((1, ROWS, COLUMNS), np.float32), maps(np.array([0.3]), np.array([20.4]))
    assert points(flat, refine="dark")[0, :2].tolist() == [0, 0]
    assert points(edge, refine="dark")[0, :2].tolist() == points(edge, refine="none")[0, :2].tolist() == [80, 0]
    few = maps(np.array([3.2]), np.array([3.4]))[:, :7, :7]
    assert np.allclose(points(few, refine="dark")[0, :2] / STRIDE, [3.4, 3.2], atol=0.25)


def test_the_smoothing_is_an_odd_number_of_cells() -> None:
    with pytest.raises(ValueError, match="odd"):
        PointMaps(points=1, refine="dark", blur=10)
