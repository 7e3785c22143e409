"""The label of each pixel, where it is in the picture that came, and COCO's run lengths."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloop_contract.boxes import placement
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE, in_picture, label_grid, mask_of, run_lengths
from edgeloop_contract.preprocessing import CenterCrop, Colour, Letterbox, Resize


def by_counting(mask: np.ndarray) -> list[int]:
    """COCO's definition: column by column, pixels outside and inside in turn."""
    lengths, inside = [0], False
    for column in mask.T:
        for pixel in column:
            if bool(pixel) != inside:
                lengths.append(0)
                inside = not inside
            lengths[-1] += 1
    return lengths


def test_run_lengths_are_coco_s() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (3, 5), (7, 2), (16, 16)):
        for share in (0.0, 0.3, 0.9, 1.0):
            mask = rng.random((height, width)) < share
            assert run_lengths(mask) == by_counting(mask)
            assert (mask_of(run_lengths(mask), height, width) == mask).all()
    assert run_lengths(np.array([[0, 1], [1, 1]], bool)) == [1, 3]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


@pytest.mark.parametrize("counts", [[3], [2, 3], [-1, 5]])
def test_run_lengths_that_do_not_fill_a_mask_are_refused(counts: list[int]) -> None:
    with pytest.raises(DataError, match="they must fill it"):
        mask_of(counts, 2, 2)


def test_the_best_label_of_each_cell_and_its_probability() -> None:
    scores = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32) * 50
    grid, sure = label_grid(scores)
    shares = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
    assert (grid == scores.argmax(0)).all() and grid.dtype == np.uint8
    assert sure == pytest.approx(shares.max(0), rel=1e-5) and np.isfinite(sure).all()


STEPS = {
    "stretched": [Colour(), Resize(height=8, width=8)],
    "in a letterbox": [Colour(), Letterbox(height=8, width=8)],
    "cropped": [Colour(), CenterCrop(height=8, width=8)],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_grid_lies_where_preprocessing_put_the_picture(name: str) -> None:
    """Each pixel of the picture has the cell that its middle falls into, as found pixel by pixel."""
    height, width = 12, 24
    place = placement(STEPS[name], height, width)
    grid = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = in_picture(grid, 8, 8, place)
    for y in range(height):
        for x in range(width):
            row, column = ((y + 0.5) * place.y_scale + place.top) / 2, ((x + 0.5) * place.x_scale + place.left) / 2
            inside = 0 <= row < 4 and 0 <= column < 4
            assert found[y, x] == (grid[int(row), int(column)] if inside else NOWHERE)
    assert (name == "cropped") == (found == NOWHERE).any()
    assert in_picture(grid, 8, 8, None).tolist() == np.kron(grid, np.ones((2, 2), np.uint8)).tolist()


def test_coco_s_own_library_reads_our_run_lengths() -> None:
    coco = pytest.importorskip("faster_coco_eval.core.mask")
    mask = np.random.default_rng(4).random((9, 13)) < 0.4
    read = coco.decode(coco.frPyObjects({"size": [9, 13], "counts": run_lengths(mask)}, 9, 13))
    assert (read == mask).all()
