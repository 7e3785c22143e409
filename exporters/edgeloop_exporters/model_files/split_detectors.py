"""Detectors whose boxes are said by several outputs that belong together: levels, or boxes beside scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Distances, Rows
from edgeloop_exporters.model_files.description import Tensor
from edgeloop_exporters.model_files.detectors import SIDES, Detector

__all__ = ["Answers", "Join", "split_detector"]

LEVELS = ((8, 16, 32, 64, 128), (8, 16, 32, 64), (4, 8, 16, 32), (8, 16, 32), (16, 32), (8, 16))
SIDE_WIDTHS = {SIDES, *(SIDES * bins for bins in (8, 16, 17))}  # plain, or bins of a distance (NanoDet and PicoDet, YOLO)
SCORES = ("score", "cls", "class", "conf", "prob", "logit")
NAMES = ("scores", "distances")
SHARES = 1.5  # boxes as shares of the picture reach little beyond 1
Answers = Callable[[], Mapping[str, Array]]


@dataclass(frozen=True)
class Join:
    """Outputs that become the output `name`, one behind the other along `axis` of (N, rows, values)."""

    name: str
    parts: tuple[str, ...]
    axis: int


def split_detector(
    outputs: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]], height: int, width: int, answers: Answers
) -> tuple[Detector, tuple[Join, ...]] | None:
    """The detector, and which outputs are joined for it; None where they are no such boxes. `answers`: of one sample, by output."""
    if len(outputs) >= 4:
        return _levels(outputs, shapes, height, width)
    return _boxes_and_scores(outputs, shapes, answers) if len(outputs) == 2 else None


def _levels(
    outputs: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]], height: int, width: int
) -> tuple[Detector, tuple[Join, ...]] | None:
    """Scores and distances of each grid (cells, values), as PicoDet's and NanoDet's exports have them."""
    for strides in LEVELS:
        cells = [-(-height // stride) * -(-width // stride) for stride in strides]
        pairs = [[t for t in outputs if len(shapes[t.name]) == 2 and shapes[t.name][0] == count] for count in cells]
        if len(outputs) != 2 * len(strides) or any(len(pair) != 2 for pair in pairs):
            continue
        scores = [next((t for t in pair if _holds_scores(t, pair, shapes)), None) for pair in pairs]
        sides = [next((t for t in pair if t not in scores), None) for pair in pairs]
        if None in scores or None in sides:
            return None
        widths = [{shapes[t.name][1] for t in group if t is not None} for group in (scores, sides)]
        if any(len(found) != 1 for found in widths) or widths[1] - SIDE_WIDTHS:
            return None
        (labels,), (values,) = widths
        layout = Distances(
            strides=list(strides), boxes="distances", scores="scores", bins=values // SIDES if values > SIDES else 0,
            activation="none" if scores[0] is not None and scores[0].activation == "sigmoid" else "sigmoid",
        )  # fmt: skip
        grids = ", ".join(map(str, strides))
        why = f"{len(outputs)} outputs hold scores and distances of grids of {grids} pixels; points are the middles of cells"
        groups = zip(NAMES, (scores, sides), strict=True)
        joins = [Join(name, tuple(t.name for t in group if t is not None), 1) for name, group in groups]
        return Detector(layout, labels, False, why), tuple(joins)
    return None


def _holds_scores(tensor: Tensor, pair: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """By the operation at its end, else by its name, else by its number of values: no four sides have it."""
    other = next(t for t in pair if t is not tensor)
    if (tensor.activation == "sigmoid") != (other.activation == "sigmoid"):
        return tensor.activation == "sigmoid"
    named = [any(word in t.name.lower() for word in SCORES) for t in (tensor, other)]
    if named[0] != named[1]:
        return named[0]
    return shapes[tensor.name][1] not in SIDE_WIDTHS and shapes[other.name][1] in SIDE_WIDTHS


def _boxes_and_scores(
    outputs: Sequence[Tensor], shapes: Mapping[str, tuple[int, ...]], answers: Answers
) -> tuple[Detector, tuple[Join, ...]] | None:
    """Boxes (rows, 4) beside scores (rows, labels), by their names, as YOLO-NAS and the DETR family have them."""
    boxes = next((t.name for t in outputs if "box" in t.name.lower() and shapes[t.name][1:] == (SIDES,)), "")
    scores = next((t for t in outputs if t.name != boxes and any(word in t.name.lower() for word in SCORES)), None)
    if not boxes or scores is None or len(shapes[scores.name]) != 2 or shapes[scores.name][0] != shapes[boxes][0]:
        return None
    made = answers()
    sizes, values = made[boxes][0], made[scores.name][0]
    normalised, corners = bool(np.abs(sizes).max() <= SHARES), bool((sizes[:, 2:] >= sizes[:, :2]).all())
    shares = bool(values.min() >= 0 and values.max() <= 1)
    layout = Rows(corners=corners, normalised=normalised, activation="none" if shares else "sigmoid")
    why = (
        f"{boxes} {list(shapes[boxes])} holds boxes by {'corners' if corners else 'middle, width and height'},"
        f" {'from 0 to 1' if normalised else 'in pixels'}, by their values; {scores.name} their {'scores' if shares else 'logits'}"
    )
    # Shares by their middle are of the DETR family, which says each thing once.
    threshold = 1.0 if normalised and not corners else 0.5
    found = Detector(layout, shapes[scores.name][1], False, why, iou_threshold=threshold)
    return found, (Join("detections", (boxes, scores.name), 2),)
