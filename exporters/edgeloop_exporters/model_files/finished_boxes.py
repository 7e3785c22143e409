"""Whether several outputs are finished boxes, or boxes beside their scores, as widely used exporters write them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeloop_contract.boxes import Centres, Distances, Final, Rows
from edgeloop_exporters.model_files.description import ModelFile

__all__ = ["KnownBoxes", "finished_boxes", "raw_rows"]

SIDES = 4
BOXES, SCORES, LABELS = ("box", "det"), ("score", "conf"), ("label", "class", "cls", "categor")
MASKS = "mask"
NANO_STRIDES, YOLOX_STRIDES = (8, 16, 32, 64), (8, 16, 32)
NANO_BINS = 8  # of each side's distance, behind the scores (NanoDet-Plus)


@dataclass(frozen=True)
class KnownBoxes:
    """`labels`: how many scores a box has, 0 where it has the number of one. `masks`: the output with each box's mask."""

    layout: Final | Rows | Centres | Distances
    labels: int
    sure: bool
    why: str
    masks: str = ""


def finished_boxes(model: ModelFile, shapes: Mapping[str, tuple[int, ...]], height: int, width: int) -> KnownBoxes | None:
    """Boxes, scores and numbers of labels in outputs of their own. `shapes`: of one sample's outputs."""
    made = {tensor.answers: tensor.signature or tensor.name for tensor in model.outputs if tensor.answers}
    if {"boxes", "labels", "scores"} <= made.keys() and len(model.outputs) == len(shapes):
        by_tensor = dict(zip((t.answers for t in model.outputs), shapes, strict=True))
        layout = Final(
            rows=by_tensor["boxes"], scores=by_tensor["scores"], labels=by_tensor["labels"], normalised=True, y_first=True
        )
        return KnownBoxes(layout, 0, True, f"TFLite's detection postprocessing: finished boxes in {layout.rows}, from 0 to 1")
    flat = {name: shape[1:] if len(shape) > 1 and shape[0] == 1 else shape for name, shape in shapes.items()}
    boxes = _named(flat, BOXES, lambda shape: len(shape) == 2 and shape[1] in (SIDES, SIDES + 1))
    if not boxes:
        return None
    rows, values = flat[boxes]
    labels = _named(flat, LABELS, lambda shape: shape == (rows,))
    scores = _named({n: s for n, s in flat.items() if n != labels}, SCORES, lambda shape: shape == (rows,))
    if not labels or (values == SIDES) is not bool(scores):
        return None
    masks = _named(flat, (MASKS,), lambda shape: shape[:1] == (rows,) and shape[-2:] in _grids(height, width))
    apart = f"{scores} the scores, " if scores else "with their scores, "
    why = f"{boxes} {list(shapes[boxes])} holds finished boxes: corners in pixels, {apart}{labels} the numbers of labels"
    return KnownBoxes(
        Final(rows=boxes, scores=scores, labels=labels), 0, True, why + (f", {masks} a mask of each" if masks else ""), masks
    )


def raw_rows(
    model: ModelFile, name: str, said: str, shape: tuple[int, ...], strides: tuple[int, ...], named: int
) -> KnownBoxes | None:  # fmt: skip
    """One output (cells, values) that is not decoded: YOLOX's, or NanoDet-Plus's. `name`: "" for the only one; `said`: in words.

    `strides`: of grids with so many cells. `named`: how many labels the file names, 0: none.
    """
    if len(shape) != 2:
        return None
    values = shape[1]
    labels = values - SIDES * NANO_BINS
    if strides == NANO_STRIDES and labels > 0 and named in (0, labels):
        layout = Distances(
            strides=list(strides), boxes=name, scores=name, bins=NANO_BINS, offset=0.0, scores_first=True,
            activation="none",
        )  # fmt: skip
        return KnownBoxes(layout, labels, False, f"{said} holds a row for each cell: scores, distributions of distances (NanoDet)")
    labels = values - SIDES - 1
    if strides == YOLOX_STRIDES and labels > 0 and named in (0, labels) and not {"Exp", "EXP"} & {*model.operators}:
        why = f"{said} holds a row for each cell: middle, logarithm of the size, objectness, scores (YOLOX, not decoded)"
        return KnownBoxes(Centres(strides=list(strides), rows=name), labels, False, why)
    return None


def _grids(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of a map over the whole sample. A smaller one is of the box alone (Mask R-CNN before its masks are pasted)."""
    return [(height // step, width // step) for step in (1, 2, 4, 8) if not height % step and not width % step]


def _named(shapes: Mapping[str, tuple[int, ...]], words: tuple[str, ...], fits: Callable[[tuple[int, ...]], bool]) -> str:
    """The only output with one of these words in its name and such a shape; "" for none or several."""
    found = [name for name, shape in shapes.items() if any(word in name.lower() for word in words) and fits(shape)]
    return found[0] if len(found) == 1 else ""
