"""What other tools make of samples: their files are read in pixels of the sample, and what does not fit is one sentence."""

from __future__ import annotations

import copy
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from test_labels import HEIGHT, KEY, PLAIN, WIDTH, told, written

from commands import command, sentence
from edgeloop_contract.annotations import AnnotatedBox, Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import mask_of, run_lengths
from edgeloop_contract.sample_messages import LabelAssignment
from edgeloop_pipeline.fleet import label_formats
from edgeloop_pipeline.fleet.label_formats import brush, coco


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
    "label studio label as a result of its own": (
        "boxes",
        studio([drawn("rectangle", {k: v for k, v in PERCENT.items() if k != "rectanglelabels"}),
                drawn("labels", {**{k: v for k, v in PERCENT.items() if k != "rectanglelabels"}, "labels": ["plain"]}),
                {"type": "relation", "from_id": "x", "to_id": "x"}, drawn("textarea", {"text": ["seen at night"]})]),
        (0, 1, WIDTH, HEIGHT),
    ),
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


JUNK: tuple[object, ...] = (None, -1, 1e308, float("nan"), [], {"a": 1}, "x", [[1, 2, 3]])


def places(content: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in JSON."""
    if path:
        yield path
    inner = content.items() if isinstance(content, dict) else enumerate(content[:3]) if isinstance(content, list) else ()
    for name, value in inner:
        yield from places(value, (*path, name))


@pytest.mark.parametrize("name", FOREIGN)
def test_whatever_stands_at_any_place_is_taken_or_one_sentence(name: str, tmp_path: Path) -> None:
    part, content, _ = FOREIGN[name]
    known = msgspec.structs.replace(PLAIN, part=part)
    for path in places(content):
        for junk in JUNK:
            spoiled = copy.deepcopy(content)
            holder: Any = spoiled
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = junk
            (tmp_path / "a.json").write_text(json.dumps(spoiled))
            try:
                told(tmp_path / "a.json", known)
            except DataError as error:
                assert "\n" not in str(error)


def test_boxes_of_a_table_are_in_pixels_of_the_sample_where_it_says_no_size(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"file,label,xmin,ymin,xmax,ymax\nmedia/pi-7-{KEY}.png,plain,1,2,9,7\n")
    (one,) = told(tmp_path / "a.csv", msgspec.structs.replace(PLAIN, part="boxes"))
    assert one.annotation == Annotation(boxes=[AnnotatedBox("plain", (1, 2, 9, 7))])


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


def yolo_of(line: str, names: str = "names: [plain]\n") -> dict[str, str]:
    return {"data.yaml": names, f"labels/pi-7-{KEY}.txt": line}


WITHOUT_AREA = {
    "coco": ("boxes", {"a.json": json.dumps(coco_of(bbox=[2.0, 1.0, 0.0, 3.0]))}),
    "yolo": ("boxes", yolo_of("0 0.5 0.5 0 0.4")),
    "a polygon in one line": ("masks", {"a.json": json.dumps(coco_of(segmentation=[[1, 1, 2, 1, 3, 1]]))}),
}


@pytest.mark.parametrize("name", WITHOUT_AREA)
def test_a_picture_whose_only_mark_has_no_area_stays_open(name: str, tmp_path: Path) -> None:
    """Somebody saw something there: it must not be learnt as a picture of nothing."""
    part, files = WITHOUT_AREA[name]
    known, left_out = msgspec.structs.replace(PLAIN, part=part), Counter[str]()
    (said,) = label_formats.read(written(tmp_path, files), True)
    assert label_formats.assignments(said, known, left_out) == []
    assert left_out["pictures in which no mark has an area: they stay open"] == 1


def test_a_picture_painted_as_background_alone_is_settled(tmp_path: Path) -> None:
    known = msgspec.structs.replace(PLAIN, part="masks", names=["thing"], background="plain")
    (tmp_path / "a.json").write_text(json.dumps(coco_of(segmentation=[[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]])))
    assert told(tmp_path / "a.json", known) == [LabelAssignment("pi-7", KEY, annotation=Annotation(masks=[]))]


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
    "a polygon of two corners": ("masks", coco_of(segmentation=[[1, 1, 2, 2]]), "three corners or more"),
    "a polygon that is none": ("boxes", coco_of(segmentation=7), "neither polygons nor run lengths"),
    "a mask of any size": ("masks", coco_of(segmentation={"size": [10**6, 10**6], "counts": [10**12]}), "it may have"),
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
