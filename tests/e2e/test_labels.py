"""Samples to other labelling tools and labels back: every format round."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import run_lengths
from edgeloop_contract.sample_messages import LabelAssignment, SampleAnnotations, SampleSummary
from edgeloop_pipeline.fleet import label_formats
from edgeloop_pipeline.fleet.label_formats.items import named

NAMES = ["plain", 'with "quotes" & <signs>', "comma, semicolon; ümlaut"]
HEIGHT, WIDTH = 7, 9
KEY = "f" * 64
PLAIN = SampleAnnotations(device="pi-7", key=KEY, model="m", part="", names=NAMES, shape=[HEIGHT, WIDTH, 3])


def item(number: int, label: str | None, image: bool, known: SampleAnnotations | None = None) -> label_formats.Item:
    shape = (HEIGHT, WIDTH, 3) if image else (20, 2)
    values = np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)
    sample = SampleSummary(
        device=f"pi-{number}", key=f"{number:064x}", taken=1.0, kind="random", random=1, model="m", sha256="0" * 64, recording="a,b",
        window=3, prediction=NAMES[0], confidence=0.4, value=1.0, label=label, truth="",
    )  # fmt: skip
    return label_formats.Item(sample, values, known=known)


def told(path: Path, known: SampleAnnotations = PLAIN, empty: bool = False) -> list[LabelAssignment]:
    """What the hub is told of a file's samples, which are all like `known`."""
    return [one for said in label_formats.read(path, empty) for one in label_formats.assignments(said, known, Counter())]


def written(folder: Path, files: dict[str, str]) -> Path:
    """The files in a folder; the first one's path, or the folder of a YOLO data set."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder if "data.yaml" in files else folder / next(iter(files))


@pytest.mark.parametrize(
    ("kind", "image"), [("csv", True), ("csv", False), ("coco", True), ("label-studio", True), ("label-studio", False)]
)
@settings(deadline=None)  # it writes files
@given(labels=st.lists(st.sampled_from([None, *NAMES]), min_size=1, max_size=6))
def test_labels_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, kind: str, image: bool, labels: list[str | None]
) -> None:
    items = [item(number, label, image) for number, label in enumerate(labels)]
    path = written(tmp_path_factory.mktemp("labels"), label_formats.FORMATS[kind](items, NAMES))
    wanted = [LabelAssignment(i.sample.device, i.sample.key, i.sample.label) for i in items if i.sample.label]
    assert told(path) == wanted


@pytest.mark.parametrize("kind", ["csv", "coco", "label-studio"])
@settings(deadline=None)  # it writes files
@given(key=st.text("ab-_./~%é", min_size=8, max_size=20))
def test_a_key_of_any_letters_comes_back(tmp_path_factory: pytest.TempPathFactory, kind: str, key: str) -> None:
    """A device chooses its keys: of `pi-1` and `2-34567890` the last dash once made device `pi-1-2`; a slash led elsewhere."""
    one = item(1, "plain", True)
    one = label_formats.Item(msgspec.structs.replace(one.sample, key=key), one.values)
    assert one.file.count("/") == 1 and ".." not in one.file and named(f"/data/upload/{one.file}") == ("pi-1", key)
    path = written(tmp_path_factory.mktemp("labels"), label_formats.FORMATS[kind]([one], NAMES))
    assert told(path) == [LabelAssignment("pi-1", key, "plain")]


EDGE = st.integers(0, 40).map(lambda n: n / 40)


@st.composite
def boxes(draw: Any) -> Annotation:
    found = []
    for _ in range(draw(st.integers(0, 4))):
        x, y = (sorted(draw(st.lists(EDGE, min_size=2, max_size=2, unique=True))) for _ in range(2))
        found.append(AnnotatedBox(draw(st.sampled_from(NAMES)), (x[0] * WIDTH, y[0] * HEIGHT, x[1] * WIDTH, y[1] * HEIGHT)))
    return Annotation(boxes=found)


@st.composite
def masks(draw: Any) -> Annotation:
    pixels = np.array(draw(st.lists(st.integers(0, len(NAMES)), min_size=HEIGHT * WIDTH, max_size=HEIGHT * WIDTH)))
    pixels = pixels.reshape(HEIGHT, WIDTH)
    found = [AnnotatedMask(n, (HEIGHT, WIDTH), run_lengths(pixels == i)) for i, n in enumerate(NAMES) if (pixels == i).any()]
    return Annotation(masks=found)


numbers = st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3).map(lambda values: Annotation(values=values))
several = st.lists(st.sampled_from(NAMES), unique=True).map(lambda labels: Annotation(labels=labels))
ROUND = [
    ("boxes", boxes(), "csv"), ("boxes", boxes(), "coco"), ("boxes", boxes(), "yolo"), ("boxes", boxes(), "label-studio"),
    ("masks", masks(), "coco"), ("masks", masks(), "label-studio"), ("values", numbers, "csv"), ("values", numbers, "label-studio"),
    ("labels", several, "csv"), ("labels", several, "coco"), ("labels", several, "label-studio"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "said", "kind"), ROUND, ids=[f"{kind} {part}" for part, _, kind in ROUND])
def test_annotations_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, part: str, said: st.SearchStrategy[Annotation], kind: str
) -> None:
    """What people said comes back; the model's answers do not become anybody's."""

    @settings(deadline=None)
    @given(settled=st.lists(st.one_of(st.none(), said), min_size=1, max_size=4), answer=said)
    def check(settled: list[Annotation | None], answer: Annotation) -> None:
        scored = [msgspec.structs.replace(box, score=0.25) for box in answer.boxes or []]
        predicted = Annotation(boxes=scored) if part == "boxes" else answer
        items = [
            item(
                number, None, True,
                msgspec.structs.replace(PLAIN, device=f"pi-{number}", part=part, settled=one, answer=predicted),
            )
            for number, one in enumerate(settled)
        ]  # fmt: skip
        path = written(tmp_path_factory.mktemp("labels"), label_formats.FORMATS[kind](items, NAMES))
        back = told(path, msgspec.structs.replace(PLAIN, part=part))
        assert {one.device for one in back} == {i.sample.device for i in items if i.settled}
        for one in back:
            assert one.annotation is not None
            same_as(one.annotation, next(i.settled for i in items if i.sample.device == one.device))

    check()


def same_as(found: Annotation, wanted: Annotation | None) -> None:
    """Boxes to a thousandth of a pixel."""
    assert wanted is not None
    if wanted.boxes is None:
        assert found == wanted
        return
    assert [box.label for box in found.boxes or []] == [box.label for box in wanted.boxes]
    edges = [[box.box for box in each] for each in (found.boxes or [], wanted.boxes)]
    assert np.allclose(*edges, atol=1e-3) and all(box.score is None for box in found.boxes or [])


def test_media_are_what_people_can_look_at() -> None:
    image = item(1, None, True)
    assert (np.asarray(Image.open(io.BytesIO(image.media()[image.file]))) == image.values).all()
    series = item(2, None, False)
    rows = list(csv.reader(io.StringIO(series.media()[series.file].decode())))
    assert rows[0] == ["step", "channel_0", "channel_1"]
    assert (np.array(rows[1:], float)[:, 1:] == series.values).all()
    assert "TimeSeries" in label_formats.FORMATS["label-studio"]([series], NAMES)["label-studio.xml"]


@pytest.mark.parametrize("kind", ["csv", "coco", "yolo", "label-studio"])
def test_what_a_format_cannot_hold_is_said(kind: str) -> None:
    held = {part for part, _, name in ROUND if name == kind}
    for part in {"boxes", "masks", "values", "labels"} - held:
        with pytest.raises(DataError, match=f"{kind}: it holds"):
            label_formats.FORMATS[kind]([item(1, None, True, msgspec.structs.replace(PLAIN, part=part))], NAMES)
