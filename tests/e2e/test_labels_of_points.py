"""Boxes with points to other labelling tools and back: COCO keypoints and YOLO poses; what holds no points says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_labels import EDGE, HEIGHT, KEY, NAMES, PLAIN, WIDTH, item, told, written
from test_labels_of_tools import coco_of, yolo_of

from edgeloop_contract.annotations import AnnotatedBox, Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.sample_messages import LabelAssignment
from edgeloop_pipeline.fleet import label_formats

KNOWN = msgspec.structs.replace(PLAIN, part="boxes", points=["head", "the tail", 'a "tip"'])


@st.composite
def pointed(draw: Any) -> Annotation:
    """Boxes with all of their points known, hidden or not known."""
    found = []
    for _ in range(draw(st.integers(0, 3))):
        x, y = (sorted(draw(st.lists(EDGE, min_size=2, max_size=2, unique=True))) for _ in range(2))
        states = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=3, max_size=3))
        points = [(draw(EDGE) * WIDTH, draw(EDGE) * HEIGHT, state) if state else (0.0, 0.0, 0) for state in states]
        label = draw(st.sampled_from(NAMES))
        found.append(AnnotatedBox(label, (x[0] * WIDTH, y[0] * HEIGHT, x[1] * WIDTH, y[1] * HEIGHT), points=points))
    return Annotation(boxes=found)


@pytest.mark.parametrize("kind", ["coco", "yolo"])
@settings(deadline=None)  # it writes files
@given(said=st.lists(pointed(), min_size=1, max_size=3))
def test_points_come_back_as_they_went(tmp_path_factory: pytest.TempPathFactory, kind: str, said: list[Annotation]) -> None:
    items = [item(i, None, True, msgspec.structs.replace(KNOWN, settled=one)) for i, one in enumerate(said)]
    path = written(tmp_path_factory.mktemp("labels"), label_formats.FORMATS[kind](items, NAMES))
    found = told(path, KNOWN)
    assert [one.key for one in found] == [i.sample.key for i in items]
    for one, wanted in zip(found, said, strict=True):
        assert one.annotation is not None
        for box, other in zip(one.annotation.boxes or [], wanted.boxes or [], strict=True):
            assert box.label == other.label and box.box == pytest.approx(other.box, abs=1e-3)
            for point, asked in zip(box.points or [], other.points or [], strict=True):
                assert point == pytest.approx(asked, abs=1e-3)


@pytest.mark.parametrize("kind", ["csv", "label-studio"])
def test_what_holds_no_points_refuses_them(kind: str) -> None:
    said = Annotation(boxes=[AnnotatedBox("plain", (0, 0, 1, 1), points=[(1.0, 1.0, 2), (0.0, 0.0, 0), (0.0, 0.0, 0)])])
    with pytest.raises(DataError, match=f"{kind}: it holds no points of boxes; use coco or yolo"):
        label_formats.FORMATS[kind]([item(1, None, True, msgspec.structs.replace(KNOWN, settled=said))], NAMES)
    bare = Annotation(boxes=[AnnotatedBox("plain", (0, 0, 1, 1))])
    assert label_formats.FORMATS[kind]([item(1, None, True, msgspec.structs.replace(KNOWN, settled=bare))], NAMES)


def persons(points: list[float], names: list[str]) -> dict[str, Any]:
    found = coco_of(bbox=[2.0, 1.0, 3.0, 3.0], segmentation=[[2.0, 1.0, 5.0, 1.0, 5.0, 4.0]], keypoints=points)
    found["categories"][0] |= {"keypoints": names, "skeleton": [[1, 2]]}
    return found


def test_points_of_another_tool_are_found_by_their_names(tmp_path: Path) -> None:
    """In another order, and without one of them; in pixels of a picture of twice the size."""
    found = persons([4.0, 6.0, 1, 8.0, 2.0, 2], ['a "tip"', "head"])
    found["images"][0] |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    (tmp_path / "a.json").write_text(json.dumps(found))
    points = [(4.0, 1.0, 2), (0.0, 0.0, 0), (2.0, 3.0, 1)]
    box = AnnotatedBox("plain", (1.0, 0.5, 2.5, 2.0), points=points)
    assert told(tmp_path / "a.json", KNOWN) == [LabelAssignment("pi-7", KEY, annotation=Annotation(boxes=[box]))]
    without = msgspec.structs.replace(KNOWN, points=[])  # a detector takes the boxes alone
    assert told(tmp_path / "a.json", without)[0].annotation == Annotation(boxes=[msgspec.structs.replace(box, points=None)])


def test_poses_of_two_numbers_a_point_are_visible_where_they_are_not_zero(tmp_path: Path) -> None:
    path = written(tmp_path, yolo_of("0 0.5 0.5 1 1 0.5 0.5 0 0 1 1\n", "kpt_shape: [3, 2]\nnames: [plain]\n"))
    (one,) = told(path, KNOWN)
    (box,) = (one.annotation and one.annotation.boxes) or []
    assert box.points == [(WIDTH / 2, HEIGHT / 2, 2), (0, 0, 0), (WIDTH, HEIGHT, 2)]


THREE = ["head", "the tail", 'a "tip"']
UNFIT: dict[str, tuple[object, str]] = {
    "an unknown point": (persons([1, 1, 2], ["nose"]), "m has no point 'nose'; it has head, the tail"),
    "points outside": (persons([99, 1, 2, 0, 0, 0, 0, 0, 0], THREE), "the point 'head' (99, 1) lies outside of the sample of 9 × 7"),
    "a point that is no number": (persons([float("nan"), 1, 2, 0, 0, 0, 0, 0, 0], THREE), "lies outside"),
    "another state": (persons([1, 1, 3, 0, 0, 0, 0, 0, 0], THREE), "is 3; it is 0 (not known), 1 (hidden) or 2 (visible)"),
    "too few": (persons([1, 1, 2], THREE), "'plain' has 1 points; there are head, the tail"),
    "parts of a point": (persons([1, 1], THREE), "2 numbers of keypoints"),
    "a pose of a model": (yolo_of("0 0.5 0.5 1 1 0 0 0 0.9", "kpt_shape: [1, 3]\nnames: [plain]\n"), "a model's prediction"),
    "poses of two numbers": (yolo_of("0 0.5 0.5 1 1 0.3 0.4 0.6 0.6", "kpt_shape: [2, 3]\nnames: [plain]\n"), "4, or 10 with its points"),
    "another shape": (yolo_of("0 0.5 0.5 1 1", "kpt_shape: 17\nnames: [plain]\n"), "kpt_shape 17; it is [points, 2] or [points, 3]"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_points_that_do_not_fit_are_one_sentence(name: str, tmp_path: Path) -> None:
    content, why = UNFIT[name]
    files = content if isinstance(content, dict) and "data.yaml" in content else {"a.json": json.dumps(content)}
    with pytest.raises(DataError) as refused:
        told(written(tmp_path, files), KNOWN)
    assert why in str(refused.value) and "\n" not in str(refused.value)
