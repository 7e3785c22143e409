"""Boxes from outputs: every declared layout, suppression, and the way back to the picture's pixels."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloop_contract.boxes import (
    AnchorLevel,
    Centres,
    Distances,
    Final,
    Grid,
    Heatmap,
    Layout,
    Priors,
    Rows,
    find_boxes,
    iou_matrix,
    placement,
    suppress,
)
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import CenterCrop, Colour, Letterbox, Resize, ResizeShorter, Transpose, Window, prepare

HEIGHT, WIDTH = 48, 64
WANTED = [[10.0, 6.0, 30.0, 26.0], [40.0, 20.0, 60.0, 44.0]]  # of labels 1 and 0, with scores 0.9 and 0.8
LABELS, SCORES = [1, 0], [0.9, 0.8]
LOW = -9.0


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def distances(exponential: bool = False, bins: int = 0) -> dict[str, np.ndarray]:
    """Cells of strides 8 and 16; the first box at a cell of the one, the second at a cell of the other."""
    cells = [(x, y, s) for s in (8, 16) for y in range(HEIGHT // s) for x in range(WIDTH // s)]
    boxes, scores = np.zeros((len(cells), 4 * max(1, bins)), np.float32), np.full((len(cells), 2), LOW, np.float32)
    for box, label, score, cell in zip(WANTED, LABELS, SCORES, [(2, 1, 8), (3, 2, 16)], strict=True):
        row, (x, y, stride) = cells.index(cell), cell
        px, py = (x + 0.5) * stride, (y + 0.5) * stride
        values = np.array([px - box[0], py - box[1], box[2] - px, box[3] - py]) / stride
        if bins:  # between two bins, by shares
            low = np.floor(values).astype(int)
            shares = np.full((4, bins), -40.0)
            shares[range(4), low] = np.log(np.maximum(1 - (values - low), 1e-12))
            shares[range(4), low + 1] = np.log(np.maximum(values - low, 1e-12))
            boxes[row] = shares.ravel()
        else:
            boxes[row] = np.log(values) if exponential else values
        scores[row, label] = logit(score)
    return {"boxes": boxes, "scores": scores}


def decoded(objectness: bool = False, corners: bool = False) -> np.ndarray:
    rows = np.zeros((20, 6 + objectness))
    for i, (box, label, score) in enumerate(zip(WANTED, LABELS, SCORES, strict=True)):
        x1, y1, x2, y2 = box
        rows[5 + i, :4] = box if corners else [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
        rows[5 + i, 4 + objectness + label] = score
        if objectness:
            rows[5 + i, 4] = 1
    return rows


ANCHORS = [AnchorLevel(stride=8, sizes=[[16.0, 16.0], [24.0, 24.0]]), AnchorLevel(stride=16, sizes=[[32.0, 20.0]])]


def grid() -> np.ndarray:
    """YOLOv5's raw rows: the first box at the second anchor of stride 8, the second at stride 16."""
    first, rows = (HEIGHT // 8) * (WIDTH // 8), []
    rows = np.full((2 * first + 12, 7), LOW)
    for box, label, score, row, cell, stride, size in zip(
        WANTED,
        LABELS,
        SCORES,
        [first + 2 * 8 + 2, 2 * first + 2 * 4 + 3],
        [(2, 2), (3, 2)],
        [8, 16],
        [(24, 24), (32, 20)],
        strict=True,
    ):
        x1, y1, x2, y2 = box
        middle = [((x1 + x2) / 2 / stride - cell[0] + 0.5) / 2, ((y1 + y2) / 2 / stride - cell[1] + 0.5) / 2]
        near = [((x2 - x1) / size[0]) ** 0.5 / 2, ((y2 - y1) / size[1]) ** 0.5 / 2]
        rows[row, :4] = [logit(v) for v in (*middle, *near)]
        rows[row, 4], rows[row, 5 + label] = 40, logit(score)
    return rows


def priors(y_first: bool = False) -> dict[str, np.ndarray]:
    first = 2 * (HEIGHT // 8) * (WIDTH // 8)
    boxes, scores = np.zeros((first + 12, 4)), np.zeros((first + 12, 3))
    scores[:, 0] = 9
    for box, label, score, row, cell, stride, size in zip(
        WANTED,
        LABELS,
        SCORES,
        [2 * (2 * 8 + 2) + 1, first + 2 * 4 + 3],
        [(2, 2), (3, 2)],
        [8, 16],
        [(24, 24), (32, 20)],
        strict=True,
    ):
        x1, y1, x2, y2 = box
        x = ((x1 + x2) / 2 - (cell[0] + 0.5) * stride) / size[0] / 0.1
        y = ((y1 + y2) / 2 - (cell[1] + 0.5) * stride) / size[1] / 0.1
        w, h = np.log((x2 - x1) / size[0]) / 0.2, np.log((y2 - y1) / size[1]) / 0.2
        boxes[row] = [y, x, h, w] if y_first else [x, y, w, h]
        scores[row] = [np.log((1 - score) / 2), *[np.log((1 - score) / 2)] * 2]
        scores[row, 1 + label] = np.log(score)
    return {"boxes": boxes, "scores": scores}


def heatmap() -> dict[str, np.ndarray]:
    maps = {"heatmap": np.full((2, 12, 16), LOW), "sizes": np.zeros((2, 12, 16)), "offsets": np.zeros((2, 12, 16))}
    for (x1, y1, x2, y2), label, score in zip(WANTED, LABELS, SCORES, strict=True):
        x, y = (x1 + x2) / 8, (y1 + y2) / 8
        at = int(y), int(x)
        maps["heatmap"][label][at] = logit(score)
        maps["heatmap"][label][at[0], at[1] + 1] = logit(score / 2)  # beside the peak: not another box
        maps["sizes"][:, at[0], at[1]] = (x2 - x1) / 4, (y2 - y1) / 4
        maps["offsets"][:, at[0], at[1]] = x - int(x), y - int(y)
    return maps


def side_by_side(scores_first: bool) -> np.ndarray:
    made = distances()
    return np.concatenate([made["scores"], made["boxes"]] if scores_first else [made["boxes"], made["scores"]], 1)


def centres() -> np.ndarray:
    """YOLOX's raw rows of strides 8 and 16."""
    cells = [(x, y, s) for s in (8, 16) for y in range(HEIGHT // s) for x in range(WIDTH // s)]
    rows = np.zeros((len(cells), 7))
    for (x1, y1, x2, y2), label, score, cell in zip(WANTED, LABELS, SCORES, [(2, 1, 8), (3, 2, 16)], strict=True):
        x, y, stride = cell
        row = rows[cells.index(cell)]
        row[:2] = (x1 + x2) / 2 / stride - x, (y1 + y2) / 2 / stride - y
        row[2:5] = np.log((x2 - x1) / stride), np.log((y2 - y1) / stride), 1
        row[5 + label] = score
    return rows


WHOLE = decoded(corners=True)
SIZE = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT, 1, 1])
FINAL = np.array([[*box, score, label] for box, score, label in zip(WANTED, SCORES, LABELS, strict=True)] + [[0] * 6] * 8)
LAYOUTS: dict[str, tuple[Layout, dict[str, np.ndarray]]] = {
    "distances": (Distances(strides=[8, 16]), distances()),
    "exponential distances": (Distances(strides=[8, 16], exponential=True), distances(exponential=True)),
    "distributions": (Distances(strides=[8, 16], bins=8), distances(bins=8)),
    "values first": (Distances(strides=[8, 16], channels="first"), {k: v.T for k, v in distances().items()}),
    "one output, scores first": (Distances(strides=[8, 16], boxes="", scores="", scores_first=True), {"all": side_by_side(True)}),
    "one output, boxes first": (Distances(strides=[8, 16], boxes="", scores=""), {"all": side_by_side(False)}),
    "rows with objectness": (Rows(objectness=True), {"output0": decoded(objectness=True)}),
    "rows, values first": (Rows(channels="first"), {"output0": decoded().T}),
    "rows of shares": (Rows(normalised=True), {"output0": decoded() / SIZE}),
    "rows of corners": (Rows(corners=True), {"output0": decoded(corners=True)}),
    "grid": (Grid(levels=ANCHORS), {"output": grid()}),
    "final": (Final(), {"output0": FINAL}),
    "rows beside scores": (Rows(rows="b", scores="s", corners=True), {"b": WHOLE[:, :4], "s": WHOLE[:, 4:]}),
    "rows beside scores, labels first": (
        Rows(rows="b", scores="s", scores_channels="first"),
        {"b": decoded()[:, :4], "s": decoded()[:, 4:].T},
    ),
    "centres": (Centres(strides=[8, 16]), {"output": centres()}),
    "finished, label first": (Final(label_first=True), {"out": FINAL[:, [5, 4, 0, 1, 2, 3]]}),
    "finished, apart": (
        Final(rows="b", scores="s", labels="l", y_first=True, first_label=1),
        {"l": FINAL[:, 5] + 1, "b": FINAL[:, [1, 0, 3, 2]], "s": FINAL[:, 4]},
    ),
    "finished, score behind the edges": (Final(rows="dets", labels="labels"), {"dets": FINAL[:, :5], "labels": FINAL[:, 5]}),
    "final shares": (Final(normalised=True), {"output0": FINAL / [*SIZE[:4], 1, 1]}),
    "priors": (Priors(levels=ANCHORS), priors()),
    "priors, y first": (Priors(levels=ANCHORS, y_first=True), priors(y_first=True)),
    "heatmap": (Heatmap(stride=4), heatmap()),
    "heatmap, channels last": (Heatmap(stride=4, channels="last"), {k: np.moveaxis(v, 0, -1) for k, v in heatmap().items()}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("batch", [False, True])
def test_every_layout_gives_the_same_boxes(name: str, batch: bool) -> None:
    layout, outputs = LAYOUTS[name]
    given = {k: v[None] if batch else v for k, v in outputs.items()}
    found = find_boxes(layout, given, HEIGHT, WIDTH, score_threshold=0.5, iou_threshold=0.5, most=10)
    np.testing.assert_allclose(found.boxes, WANTED, atol=0.02)
    np.testing.assert_allclose(found.scores, SCORES, atol=1e-3)
    assert found.labels.tolist() == LABELS and found.boxes.dtype == np.float32


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_found_in_nothing(name: str) -> None:
    layout, outputs = LAYOUTS[name]
    found = find_boxes(layout, outputs, HEIGHT, WIDTH, score_threshold=0.99, iou_threshold=0.5, most=10)
    assert found.boxes.shape == (0, 4) and not len(found.scores) and not len(found.labels)


@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_that_do_not_fit_are_one_sentence(name: str) -> None:
    layout, outputs = LAYOUTS[name]
    spoiled = {key: values[:1] if values.ndim == 1 else values[..., :1, :3] for key, values in outputs.items()}
    for given in (spoiled, {"a": np.zeros((2, 2)), "b": np.zeros((2, 2))}):
        with pytest.raises(DataError):
            find_boxes(layout, given, HEIGHT, WIDTH, score_threshold=0.5, iou_threshold=0.5, most=10)


# What ultralytics 8.4.190 keeps of these rows (utils.nms.non_max_suppression, conf_thres 0.25, max_det 300), best first.
KEPT = {
    0.5: [27, 52, 40, 43, 28, 42, 38, 53, 47, 13, 24, 16, 58, 34, 37, 4, 19, 41, 26, 10, 22, 8, 46, 18, 36, 32, 17, 3, 15, 9, 45,
          35, 23, 21, 56, 49, 33, 54, 2, 0],
    0.7: [27, 52, 40, 43, 28, 42, 38, 53, 47, 13, 24, 16, 58, 34, 14, 37, 4, 19, 41, 26, 29, 48, 10, 39, 31, 22, 8, 46, 18, 36, 32,
          51, 17, 20, 59, 3, 1, 30, 15, 9, 45, 35, 5, 23, 21, 56, 49, 7, 33, 54, 2, 0, 50],
}  # fmt: skip


@pytest.mark.parametrize("threshold", KEPT)
def test_rows_are_suppressed_as_ultralytics_does(threshold: float) -> None:
    """Many of these boxes reach out of the sample of 160 × 160."""
    rng = np.random.default_rng(7)
    rows = np.concatenate([rng.uniform(-10, 170, (60, 2)), rng.uniform(60, 140, (60, 2)), rng.uniform(0, 1, (60, 2))], 1)
    rows = rows.astype(np.float32)
    found = find_boxes(Rows(), {"rows": rows}, 160, 160, score_threshold=0.25, iou_threshold=threshold, most=300)
    assert found.rows is not None and found.rows.tolist() == KEPT[threshold]
    middle, half = rows[found.rows, :2], rows[found.rows, 2:4] / 2
    assert np.allclose(found.boxes, np.clip(np.concatenate([middle - half, middle + half], 1), 0, 160))


@pytest.mark.parametrize(("layout", "kept"), [(Rows(corners=True), 2), (Final(), 2), (Distances(strides=[8]), 1)])
def test_where_boxes_are_cut_off_before_they_are_compared(layout: Layout, kept: int) -> None:
    """Two boxes that reach out of the sample at its left: whole they overlap by 0.33, cut off by 0.6."""
    boxes = np.array([[-40.0, 0, 30, 40], [-10.0, 0, 50, 40]])
    given = {"rows": np.concatenate([boxes, [[0.9], [0.8]]], 1)}
    if isinstance(layout, Final):
        given = {"rows": np.concatenate([given["rows"], [[0], [0]]], 1)}
    if isinstance(layout, Distances):
        given = {"boxes": np.zeros((48, 4)), "scores": np.full((48, 1), LOW)}
        for cell, box in zip((9, 10), boxes, strict=True):
            x, y = (cell % 8 + 0.5) * 8, (cell // 8 + 0.5) * 8
            given["boxes"][cell] = np.array([x - box[0], y - box[1], box[2] - x, box[3] - y]) / 8
            given["scores"][cell] = 2 - cell / 10
    found = find_boxes(layout, given, HEIGHT, WIDTH, score_threshold=0.5, iou_threshold=0.5, most=10)
    assert len(found.boxes) == kept and found.boxes[0].min() >= 0


def greedy(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    overlap = iou_matrix(boxes, boxes)
    for i in np.argsort(-scores, kind="stable").tolist():
        if not any(labels[i] == labels[j] and overlap[i, j] > threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 1000])
@pytest.mark.parametrize("kinds", [1, 3])
def test_suppression_is_the_greedy_one_whatever_the_number(count: int, kinds: int) -> None:
    rng = np.random.default_rng(count)
    middle = rng.uniform(0, 200, (max(1, count // 6), 2))[rng.integers(0, max(1, count // 6), count)] + rng.normal(0, 3, (count, 2))
    size = rng.uniform(15, 50, (count, 2))
    boxes = np.concatenate([middle - size / 2, middle + size / 2], 1).astype(np.float32)
    scores, labels = rng.random(count).round(2).astype(np.float32), rng.integers(0, kinds, count)
    wanted = greedy(boxes, scores, labels, 0.5)
    assert suppress(boxes, scores, labels, 0.5, 10_000).tolist() == wanted
    assert suppress(boxes, scores, labels, 0.5, 7).tolist() == wanted[:7]


STEPS = {
    "resize": [Colour(), Resize(height=30, width=80)],
    "letterbox": [Letterbox(height=96, width=96)],
    "shorter and crop": [ResizeShorter(size=60), CenterCrop(height=50, width=50)],
    "crop with a border": [CenterCrop(height=70, width=41), Resize(height=140, width=82)],
}


@pytest.mark.parametrize("name", STEPS)
def test_boxes_follow_the_pixels_through_preprocessing(name: str) -> None:
    """A white square is where the placement says, and comes back to where it was."""
    steps, square = STEPS[name], [24, 16, 40, 32]
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[square[1] : square[3], square[0] : square[2]] = 255
    sample = prepare(steps, picture).values[0, ..., 0].astype(float)
    sample[sample == 114] = 0
    place = placement(steps, 48, 64)
    moved = place.to_sample(np.array([square], float))[0]
    rows, columns = np.flatnonzero((sample > 127).any(1)), np.flatnonzero((sample > 127).any(0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(moved, seen, atol=1.0)
    np.testing.assert_allclose(place.to_picture(moved[None])[0], square, atol=1e-9)


@pytest.mark.parametrize("step", [Window(length=4, hop=2), Transpose(axes=[1, 0, 2])])
def test_a_step_that_boxes_cannot_follow_is_refused(step: object) -> None:
    with pytest.raises(DataError, match="cannot follow"):
        placement([step], 10, 10)
