"""Boxes with masks to other labelling tools and back: COCO holds them; the other formats hold the boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_labels import EDGE, HEIGHT, NAMES, PLAIN, WIDTH, item, told, written
from test_labels_of_tools import INSIDE, RECT, coco_of

from edgeloop_contract.annotations import AnnotatedBox, Annotation, BoxMask
from edgeloop_contract.masks import run_lengths
from edgeloop_pipeline.fleet import label_formats

KNOWN = msgspec.structs.replace(PLAIN, part="boxes", masks_of_boxes=True)
SIZE = (HEIGHT, WIDTH)


@st.composite
def masked(draw: Any) -> Annotation:
    """Boxes, most of them with a mask, of any pixels."""
    found = []
    for _ in range(draw(st.integers(0, 3))):
        x, y = (sorted(draw(st.lists(EDGE, min_size=2, max_size=2, unique=True))) for _ in range(2))
        bits = np.array(draw(st.lists(st.booleans(), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH))).reshape(SIZE)
        mask = BoxMask(SIZE, run_lengths(bits)) if bits.any() else None
        edges = (x[0] * WIDTH, y[0] * HEIGHT, x[1] * WIDTH, y[1] * HEIGHT)
        found.append(AnnotatedBox(draw(st.sampled_from(NAMES)), edges, mask=mask))
    return Annotation(boxes=found)


@settings(deadline=None)  # it writes files
@given(said=st.lists(masked(), min_size=1, max_size=3))
def test_masks_of_boxes_come_back_as_they_went(tmp_path_factory: pytest.TempPathFactory, said: list[Annotation]) -> None:
    items = [item(i, None, True, msgspec.structs.replace(KNOWN, settled=one, answer=one)) for i, one in enumerate(said)]
    path = written(tmp_path_factory.mktemp("labels"), label_formats.FORMATS["coco"](items, NAMES))
    for one, wanted in zip(told(path, KNOWN), said, strict=True):
        boxes = (one.annotation and one.annotation.boxes) or []
        assert [(box.label, box.mask) for box in boxes] == [(box.label, box.mask) for box in wanted.boxes or []]
        assert np.allclose([box.box for box in boxes], [box.box for box in wanted.boxes or []], atol=1e-3)


RUNS = {"size": list(SIZE), "counts": run_lengths(INSIDE)}
TWICE = {"size": [2 * HEIGHT, 2 * WIDTH], "counts": run_lengths(INSIDE.repeat(2, 0).repeat(2, 1))}


@pytest.mark.parametrize("segmentation", [[RECT], RUNS, TWICE], ids=["a polygon", "run lengths", "of a larger picture"])
def test_polygons_and_masks_of_other_tools_are_masks_of_boxes(segmentation: object, tmp_path: Path) -> None:
    found = coco_of(segmentation=segmentation)
    (tmp_path / "a.json").write_text(json.dumps(found))
    (one,) = told(tmp_path / "a.json", KNOWN)
    (box,) = (one.annotation and one.annotation.boxes) or []
    assert box.mask == BoxMask(SIZE, run_lengths(INSIDE))
    (without,) = told(tmp_path / "a.json", msgspec.structs.replace(KNOWN, masks_of_boxes=False))  # a detector takes the box alone
    assert without.annotation == Annotation(boxes=[msgspec.structs.replace(box, mask=None)])
