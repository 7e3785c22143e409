"""Samples to other labelling tools and labels back: every format round, what the tools write, and what no format is."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from commands import command, sentence
from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import mask_of, run_lengths
from edgeloop_contract.sample_messages import LabelAssignment, SampleAnnotations, SampleSummary
from edgeloop_pipeline.fleet import label_formats
from edgeloop_pipeline.fleet.label_formats import brush, coco

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
@given(labels=st.lists(st.sampled_from([None, *NAMES]), min_size=1, max_size=6))
def test_labels_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, kind: str, image: bool, labels: list[str | None]
) -> None:
    items = [item(number, label, image) for number, label in enumerate(labels)]
    path = written(tmp_path_factory.mktemp("labels"), label_formats.FORMATS[kind](items, NAMES))
    wanted = [LabelAssignment(i.sample.device, i.sample.key, i.sample.label) for i in items if i.sample.label]
    assert told(path) == wanted


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


def test_what_other_tools_make_of_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "short.json").write_text(
        json.dumps([{"image": f"/data/upload/1/8ab3-x/pi-7-{KEY}.png", "label": "plain", "id": 1}])
    )
    assert told(tmp_path / "short.json") == [LabelAssignment("pi-7", KEY, "plain")]
    (tmp_path / "files.csv").write_text(f"label,file\nplain,media\\pi-7-{KEY}.png\n,media/pi-8-{KEY}.png\n")
    assert told(tmp_path / "files.csv") == [LabelAssignment("pi-7", KEY, "plain")]


def coco_of(**annotation: object) -> dict[str, Any]:
    """As CVAT and others write it: names of their own, more fields, category ids with a gap."""
    images = [{"id": 5, "license": 0, "file_name": f"pi-7-{KEY}.png", "width": WIDTH, "height": HEIGHT, "flickr_url": ""}]
    one = {"id": 1, "image_id": 5, "category_id": 3, "area": 4.0, "iscrowd": 0, "attributes": {"occluded": False}, **annotation}
    return {
        "licenses": [],
        "info": {},
        "images": images,
        "categories": [{"id": 3, "name": "plain", "supercategory": ""}],
        "annotations": [one],
    }


def studio(results: list[dict[str, Any]], **more: object) -> list[dict[str, Any]]:
    task = {"id": 1, "data": {"image": f"/data/upload/3/1a2b3c4d-pi-7-{KEY}.png".replace("1a2b3c4d-", "")}}
    return [{**task, "annotations": [{"id": 1, "completed_by": 1, "result": results, "was_cancelled": False, **more}]}]


def drawn(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "x", "type": kind, "from_name": "label", "to_name": "sample", "original_width": WIDTH, "original_height": HEIGHT,
        "image_rotation": 0, "origin": "manual", "value": value,
    }  # fmt: skip


PERCENT = {"x": 0, "y": 100 / 7, "width": 100, "height": 600 / 7, "rotation": 0, "rectanglelabels": ["plain"]}
TURNED = {"x": 500 / 9, "y": 200 / 7, "width": 200 / 9, "height": 100 / 7, "rotation": 90, "rectanglelabels": ["plain"]}
RECT = [2.0, 1.0, 5.0, 1.0, 5.0, 4.0, 2.0, 4.0]
INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[1:4, 2:5] = True
FOREIGN: dict[str, tuple[str, object, object]] = {
    "coco box": ("boxes", coco_of(bbox=[2.0, 1.0, 3.0, 3.0], segmentation=[]), (2, 1, 5, 4)),
    "coco polygon as a box": ("boxes", coco_of(segmentation=[RECT]), (2, 1, 5, 4)),
    "coco polygon": ("masks", coco_of(bbox=[2, 1, 3, 3], segmentation=[RECT]), INSIDE),
    "coco run lengths": (
        "masks", coco_of(iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": run_lengths(INSIDE)}), INSIDE,
    ),
    "label studio percent to the edge": ("boxes", studio([drawn("rectanglelabels", PERCENT)]), (0, 1, WIDTH, HEIGHT)),
    "label studio turned": ("boxes", studio([drawn("rectanglelabels", TURNED)]), (4, 2, 5, 4)),
    "label studio polygon": (
        "masks",
        studio([drawn("polygonlabels", {"points": [[x / WIDTH * 100, y / HEIGHT * 100] for x, y in zip(RECT[::2], RECT[1::2], strict=True)],
                                        "closed": True, "polygonlabels": ["plain"]})]),
        INSIDE,
    ),
    "label studio short form": (
        "boxes",
        [{"image": f"pi-7-{KEY}.png", "id": 1, "label": [{**PERCENT, "original_width": WIDTH, "original_height": HEIGHT}], "annotator": 1}],
        (0, 1, WIDTH, HEIGHT),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_boxes_and_masks_of_other_tools_are_read_in_pixels(name: str, tmp_path: Path) -> None:
    part, content, wanted = FOREIGN[name]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (one,) = told(tmp_path / "a.json", msgspec.structs.replace(PLAIN, part=part))
    assert one.annotation is not None and (one.device, one.key) == ("pi-7", KEY)
    if part == "boxes":
        (box,) = one.annotation.boxes or []
        assert box.label == "plain" and box.box == pytest.approx(wanted, abs=1e-3)
        assert box.box[2] <= WIDTH and box.box[3] <= HEIGHT
    else:
        (mask,) = one.annotation.masks or []
        assert mask.label == "plain" and (mask_of(mask.counts, *mask.size) == wanted).all()


def test_nothing_on_an_image_is_said_by_an_option_or_by_the_format(tmp_path: Path) -> None:
    known = msgspec.structs.replace(PLAIN, part="boxes")
    (tmp_path / "a.json").write_text(json.dumps({**coco_of(), "annotations": []}))
    assert told(tmp_path / "a.json", known) == []
    nothing = [LabelAssignment("pi-7", KEY, annotation=Annotation(boxes=[]))]
    assert told(tmp_path / "a.json", known, empty=True) == nothing
    (tmp_path / "b.json").write_text(json.dumps(studio([])))
    assert told(tmp_path / "b.json", known) == nothing
    (tmp_path / "c.json").write_text(json.dumps(studio([], was_cancelled=True)))
    assert told(tmp_path / "c.json", known) == []


def test_a_zip_of_yolo_is_read_as_its_folder_is(tmp_path: Path) -> None:
    known = msgspec.structs.replace(PLAIN, part="boxes")
    with zipfile.ZipFile(tmp_path / "yolo.zip", "w") as zipped:
        zipped.writestr("obj.names", "plain\n")
        zipped.writestr("obj_train_data/train.txt", f"data/pi-7-{KEY}.png\n")
        zipped.writestr(f"obj_train_data/labels/pi-7-{KEY}.txt", "0 0.5 0.5 1 1\n0 0.1 0.1 0.2 0.1 0.2 0.4\n")
    (one,) = told(tmp_path / "yolo.zip", known)
    found = [box.box for box in (one.annotation and one.annotation.boxes) or []]
    assert np.allclose(found, [(0, 0, WIDTH, HEIGHT), (0.1 * WIDTH, 0.1 * HEIGHT, 0.2 * WIDTH, 0.4 * HEIGHT)], atol=1e-3)


def test_packed_run_lengths_are_those_of_the_tools() -> None:
    """COCO's against its own library; Label Studio's against what its SDK 2.1.2 (converter/brush.py, mask2rle) made of this mask."""
    from faster_coco_eval.core import mask as library

    rng = np.random.default_rng(0)
    for share in (0.0, 0.03, 0.5, 1.0):
        pixels = rng.random((60, 70)) < share
        packed = library.encode(np.asfortranarray(pixels.astype(np.uint8)))["counts"]
        assert (mask_of(coco.unpacked(packed.decode()), 60, 70) == pixels).all()
        assert (brush.unpacked(brush.packed(pixels), 60, 70) == pixels).all()
    pixels = np.zeros((3, 5), bool)
    pixels[1, 1:4] = pixels[2, 4] = True
    of_the_sdk = [0, 0, 0, 60, 57, 27, 254, 23, 0, 183, 255, 132, 192, 35, 255, 0]
    assert (brush.unpacked(of_the_sdk, 3, 5) == pixels).all()
    with pytest.raises(DataError, match="ends too early"):
        brush.unpacked(of_the_sdk[:9], 3, 5)


def yolo_of(line: str, names: str = "names: [plain]\n") -> dict[str, str]:
    return {"data.yaml": names, f"labels/pi-7-{KEY}.txt": line}


UNFIT: dict[str, tuple[str, object, str]] = {
    "an unknown label": (
        "boxes", studio([drawn("rectanglelabels", {**PERCENT, "rectanglelabels": ["cow"]})]), "knows no label 'cow'",
    ),
    "a box outside": ("boxes", studio([drawn("rectanglelabels", {**PERCENT, "x": 50})]), "reaches out of the sample of 9 × 7 pixels"),
    "a box of NaN": ("boxes", studio([drawn("rectanglelabels", {**PERCENT, "x": float("nan")})]), "reaches out"),
    "a box without a label": ("boxes", studio([drawn("rectangle", {"x": 1, "y": 1, "width": 5, "height": 5})]), "without a label"),
    "a box for a mask": ("masks", coco_of(bbox=[2.0, 1.0, 3.0, 3.0]), "has a box alone; m needs masks"),
    "a label for a box": ("boxes", studio([drawn("choices", {"choices": ["plain"]})]), "has no box"),
    "a mask of another size": ("masks", coco_of(segmentation={"size": [2, 2], "counts": [0, 4]}), "a mask of 2 × 2 pixels"),
    "a broken mask": ("masks", coco_of(segmentation={"size": [HEIGHT, WIDTH], "counts": [4]}), "they must fill it"),
    "a painted mask of another size": (
        "masks", studio([drawn("brushlabels", {"format": "rle", "rle": [0, 0, 0, 60, 57, 27, 254], "brushlabels": ["plain"]})]),
        "a painted mask of 15 pixels for a picture of 9 × 7",
    ),
    "an image without a size": ("boxes", {**coco_of(bbox=[1, 1, 2, 2]), "images": [{"id": 5, "file_name": f"pi-7-{KEY}.png"}]}, "no width"),
    "predictions": ("boxes", coco_of(bbox=[2.0, 1.0, 3.0, 3.0], score=0.5), "a model's predictions, and nobody's labels"),
    "a missing value": ("values", studio([drawn("number", {"number": 1.5})]), "no number for"),
    "no label": ("boxes", yolo_of("7 0.5 0.5 1 1"), "data.yaml has no label 7"),
    "a word": ("boxes", yolo_of("0 0.5 half 1 1"), "no number of a label and shares"),
    "three numbers": ("boxes", yolo_of("0 0.5 0.5 1"), "neither a box nor a polygon"),
    "a yolo prediction": ("boxes", yolo_of("0 0.5 0.5 1 1 0.9"), "a model's prediction"),
    "pixels in yolo": ("boxes", yolo_of("0 4 4 2 2"), "reaches out"),
    "no names": ("boxes", yolo_of("0 0.5 0.5 1 1", "nc: 1\n"), "data.yaml has no names"),
    "broken yaml": ("boxes", yolo_of("0 0.5 0.5 1 1", "names: [\n"), "data.yaml cannot be read"),
    "no labels": ("boxes", {"data.yaml": "names: [plain]\n"}, "no text of labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_the_sample_is_one_sentence(name: str, tmp_path: Path) -> None:
    part, content, why = UNFIT[name]
    files = content if isinstance(content, dict) and "data.yaml" in content else {"a.json": json.dumps(content)}
    path = written(tmp_path, files)
    with pytest.raises(DataError) as refused:
        told(path, msgspec.structs.replace(PLAIN, part=part))
    assert why in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["csv", "coco", "yolo", "label-studio"])
def test_what_a_format_cannot_hold_is_said(kind: str) -> None:
    held = {part for part, _, name in ROUND if name == kind}
    for part in {"boxes", "masks", "values", "labels"} - held:
        with pytest.raises(DataError, match=f"{kind}: it holds"):
            label_formats.FORMATS[kind]([item(1, None, True, msgspec.structs.replace(PLAIN, part=part))], NAMES)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "[1, 2]"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}], "categories": []}'),
        ("a.json", '[{"image": "nothing.png", "label": "x"}]'),
        ("a.json", "[" * 100_000),
        ("a.csv", "label\nx\n"),
        ("a.csv", "file,label\nnothing.png,x\n"),
        ("a.csv", f"file,label,xmin,ymin,xmax,ymax,width,height\npi-7-{KEY}.png,plain,one,2,3,4,9,7\n"),
        ("a.csv", f"file,label,state\npi-7-{KEY}.png,plain,done\n"),
        ("a.zip", "PK no zip"),
        ("a.yaml", "names: [plain]\n"),
    ],
)
def test_a_file_that_holds_no_labels_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"a\.|DEVICE-KEY"):
        list(label_formats.read(tmp_path / name))
    said = command("edgeloop", "labels", "import", tmp_path / name, EDGELOOP_HUB="http://127.0.0.1:1", EDGELOOP_HUB_TOKEN="x")
    assert len(sentence(said, 3).strip().splitlines()) == 1
