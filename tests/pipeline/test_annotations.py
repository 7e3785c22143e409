"""Pictures with boxes in every format: what is read, what is kept out and said, and how they are divided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotated import HEIGHT, LABELS, WIDTH, WRITERS, Shape, coco, csv, pictures, voc, voc_text, yolo
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import CenterCrop, Colour, Letterbox, Resize
from edgeloop_pipeline.data.boxes import NONE
from edgeloop_pipeline.data.datasets import PictureBoxes
from edgeloop_pipeline.data.datasets.annotations.formats import format_of, read_annotations
from edgeloop_pipeline.data.datasets.annotations.pictures import Annotations, Box, turned
from edgeloop_pipeline.data.prepare import prepare_splits
from edgeloop_pipeline.data.types import Split, Splits
from edgeloop_pipeline.recipe.wizard.look import look


def said(found: Annotations) -> str:
    return "\n".join(found.findings.lines())


def named(found: Annotations, full: bool) -> dict[str, list[tuple[str, int, int, int, int]]]:
    names = ["/".join(p.path.parts[-2:]) if full else p.path.name for p in found.pictures]
    return {
        name: sorted((b.label, *(round(v) for v in b[1:5])) for b in p.boxes) for name, p in zip(names, found.pictures, strict=True)
    }


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_is_recognised_and_gives_the_same_boxes(kind: str, tmp_path: Path) -> None:
    wanted = WRITERS[kind](tmp_path)
    assert format_of(tmp_path) == kind
    found = read_annotations(tmp_path)
    assert found.labels == LABELS and found.format == kind
    assert named(found, kind == "yolo") == {name: sorted(map(tuple, shapes)) for name, shapes in wanted.items()}
    plan = look(tmp_path)
    assert plan.task == "detection" and plan.kind == "PictureBoxes" and plan.distinct == LABELS
    assert any(topic == "understood" and text.startswith("boxes as") for topic, text in plan.says)


@pytest.mark.parametrize(("write", "file"), [(coco, "annotations.json"), (csv, "boxes.csv")])
def test_one_file_of_annotations_is_enough(write: Any, file: str, tmp_path: Path) -> None:
    write(tmp_path)
    plan = look(tmp_path / file)
    assert plan.task == "detection" and plan.path == tmp_path / file
    assert len(PictureBoxes(tmp_path / file).load().train.names) > 6


@pytest.mark.parametrize(("kind", "splits"), [("voc", {"train", "validation", "test"}), ("yolo", {"train", "validation"})])
def test_the_data_s_own_split_counts(kind: str, splits: set[str], tmp_path: Path) -> None:
    WRITERS[kind](tmp_path, 24)
    data = PictureBoxes(tmp_path)
    assert data.annotations.splits == splits
    loaded = data.load()
    names = [set(getattr(loaded, split).names) for split in ("train", "validation", "test")]
    assert all(names) and sum(map(len, names)) == 24 == len(set.union(*names))
    if kind == "yolo":
        assert all("/val/" in name for name in loaded.validation.names) and data.split_by().endswith("test from train")


def test_without_a_split_equal_pictures_and_groups_stay_together(tmp_path: Path) -> None:
    csv(tmp_path, 20)
    text = (tmp_path / "boxes.csv").read_text()
    lines = [line for line in text.splitlines() if line.startswith("p003.png")]
    shutil.copy(tmp_path / "pictures" / "p003.png", tmp_path / "pictures" / "again.png")
    (tmp_path / "boxes.csv").write_text(text + "\n".join(line.replace("p003.png", "again.png") for line in lines) + "\n")
    loaded = PictureBoxes(tmp_path).load()
    sides = {name: split for split in ("train", "validation", "test") for name in getattr(loaded, split).names}
    assert sides["pictures/p003.png"] == sides["pictures/again.png"] and set(sides.values()) == {"train", "validation", "test"}
    again = PictureBoxes(tmp_path).load()
    assert again.test.names == loaded.test.names, "the same on every machine"
    groups = PictureBoxes(tmp_path, group="0")
    assert {groups.unit(picture) for picture in groups.annotations.pictures} == {"p", "again"}


def spoil_voc(folder: Path, name: str, shapes: list[Shape], size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    (folder / "Annotations" / name).with_suffix(".xml").write_text(voc_text(name, shapes, size))


def test_boxes_that_are_none_are_kept_out_counted_and_said(tmp_path: Path) -> None:
    wanted = voc(tmp_path)
    good = wanted["p000.png"]
    spoil_voc(
        tmp_path,
        "p000.png",
        [*good, Shape("disc", 20, 20, 20, 40), Shape("disc", 300, 10, 340, 40), Shape("disc", 120, 80, 150, 90)],
    )
    spoil_voc(tmp_path, "p001.png", [])
    spoil_voc(tmp_path, "p002.png", wanted["p002.png"], (640, 480))
    spoil_voc(tmp_path, "gone.png", good)
    (tmp_path / "Annotations" / "p003.xml").write_text("<annotation><object>")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "JPEGImages" / "extra.png")
    (tmp_path / "JPEGImages" / "p004.png").write_bytes(b"no picture")
    found = read_annotations(tmp_path)
    text = said(found)
    for line in (
        "1 boxes without area (p000.png)",
        "1 boxes outside the picture (p000.png)",
        "1 boxes cut off at the picture's edge (p000.png)",
        "1 pictures without boxes, kept as they are (p001.png)",
        "1 pictures of another size than annotated (p002.png)",
        "1 pictures that are annotated and not there (gone.png)",
        "1 files that are no annotations (p003.xml)",
        "1 files that are no readable pictures (p004.png)",
        "2 pictures without an annotation file, left out",
    ):
        assert line in text, text
    boxes = {p.path.name: p.boxes for p in found.pictures}
    assert len(boxes["p000.png"]) == len(good) + 1 and Box("disc", 120, 80, 128, 90) in boxes["p000.png"]
    assert boxes["p001.png"] == () and "p002.png" not in boxes


def test_category_ids_with_gaps_are_closed_and_said(tmp_path: Path) -> None:
    coco(tmp_path)
    data = json.loads((tmp_path / "annotations.json").read_text())
    data["categories"].append({"id": 40, "name": "never"})
    data["annotations"] += [
        {"image_id": 0, "category_id": 99, "bbox": [1, 1, 9, 9]}, {"image_id": 77, "category_id": 1, "bbox": [1, 1, 9, 9]},
        {"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9], "iscrowd": 1}, {"image_id": 0, "category_id": 1},
    ]  # fmt: skip
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    found = read_annotations(tmp_path)
    text = said(found)
    assert found.labels == LABELS and "category ids with gaps: 1, 7, 40 become 0 to 2" in text
    assert "classes without a box, left out: never" in text
    for line in ("of a category that is not listed", "of pictures that are not listed", "crowds", "annotations without a box"):
        assert line in text, text


def test_coco_of_each_split(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        coco(tmp_path / split)
        (tmp_path / split / "annotations.json").rename(tmp_path / split / "_annotations.coco.json")
    found = read_annotations(tmp_path)
    assert found.splits == {"train", "validation", "test"} and len(found.pictures) == 36


def test_pixels_among_shares_are_kept_out_or_refused(tmp_path: Path) -> None:
    yolo(tmp_path, 12)
    file = tmp_path / "labels" / "train" / "p000.txt"
    file.write_text(file.read_text() + "0 60 40 20 20\nno box\n7 0.5 0.5 0.1 0.1\n")
    text = said(read_annotations(tmp_path))
    for line in (
        "1 boxes in pixels where shares are expected (p000.png)",
        "1 lines that are no boxes",
        "1 boxes of a class that has no name",
    ):
        assert line in text, text
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text("0 60 40 20 20\n")
    with pytest.raises(DataError, match=r"12 of 12 boxes cannot be used.*shares of the picture"):
        read_annotations(tmp_path)


def test_csv_in_shares_or_pixels_but_not_both(tmp_path: Path) -> None:
    wanted = csv(tmp_path / "shares", shares=True)
    assert named(read_annotations(tmp_path / "shares"), False) == {n: sorted(map(tuple, s)) for n, s in wanted.items()}
    file = tmp_path / "shares" / "boxes.csv"
    file.write_text(file.read_text() + "p000.png,disc,10,10,40,40\n")
    with pytest.raises(DataError, match="has pixels, the rows before have shares"):
        read_annotations(tmp_path / "shares")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_that_exif_turns_have_their_boxes_turned(orientation: int, tmp_path: Path) -> None:
    """A tool that does not look at EXIF annotates the stored pixels; readers show the picture upright."""
    from edgeloop_agent.sources.pictures import read_image

    stored = np.full((40, 60, 3), 20, np.uint8)
    stored[8:20, 30:52] = 240
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    shown = read_image(tmp_path / "a.png").max(-1) > 128
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    wanted = Box("x", columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert turned(Box("x", 30, 8, 52, 20), 60, 40, orientation) == wanted
    (tmp_path / "a.xml").write_text(voc_text("a.png", [Shape("x", 30, 8, 52, 20)], (60, 40)))
    found = read_annotations(tmp_path)
    if orientation in (5, 6, 7, 8):
        assert found.pictures[0].boxes[0] == wanted and "boxes turned with it" in said(found)
    elif orientation != 1:
        assert "boxes taken as upright" in said(found)


REFUSED = {
    "nothing": (lambda root: pictures(root, 2), "no boxes as"),
    "no boxes": (lambda root: [voc(root), [spoil_voc(root, f"p{i:03d}.png", []) for i in range(12)]], "no box in 12 pictures"),
    "two formats": (lambda root: [voc(root), csv(root)], "has boxes as Pascal VOC XML and CSV"),
    "no training": (
        lambda root: [voc(root), shutil.copy(root / "ImageSets/Main/val.txt", root / "ImageSets/Main/train.txt")],
        "is in .* too",
    ),
    "broken JSON": (
        lambda root: [coco(root), (root / "annotations.json").write_text('{"images": [], "annotations": [')],
        "not COCO",
    ),
    "entities": (
        lambda root: (root / "a.xml").write_text(
            '<!DOCTYPE a [<!ENTITY b "c">]><annotation><object><name>&b;</name></object></annotation>'
        ),
        "no box in 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_one_sentence(name: str, tmp_path: Path) -> None:
    spoil, why = REFUSED[name]
    spoil(tmp_path)
    with pytest.raises(DataError, match=why):
        PictureBoxes(tmp_path).load()


def test_a_class_that_training_lacks_is_refused_and_one_that_a_test_lacks_is_said(tmp_path: Path) -> None:
    wanted = voc(tmp_path)
    test = (tmp_path / "ImageSets/Main/test.txt").read_text().split()
    spoil_voc(tmp_path, f"{test[0]}.png", [Shape("star", 5, 5, 30, 30)])
    with pytest.raises(DataError, match="train has no box of star"):
        PictureBoxes(tmp_path).load()
    spoil_voc(tmp_path, f"{test[0]}.png", wanted[f"{test[0]}.png"])
    train = (tmp_path / "ImageSets/Main/train.txt").read_text().split()
    spoil_voc(tmp_path, f"{train[0]}.png", [Shape("star", 5, 5, 30, 30)])
    data = PictureBoxes(tmp_path)
    data.load()
    assert "test has no box of star" in said(data.annotations)


@pytest.mark.parametrize(
    "steps",
    [[Colour(), Resize(height=64, width=64)], [Letterbox(height=96, width=96)], [CenterCrop(height=64, width=64)]],
    ids=["resize", "letterbox", "crop"],
)
def test_labels_follow_preprocessing_to_the_pixels_of_the_sample(steps: list[object], tmp_path: Path) -> None:
    """Each prepared box is full of its shape's colour."""
    voc(tmp_path)
    found = prepare_splits(PictureBoxes(tmp_path).load(), steps, "detection")
    seen = 0
    for samples in (found.train, found.validation, found.test):
        assert samples.labels.dtype == np.float32 and samples.labels.shape[2] == 5
        for picture, boxes in zip(samples.values, samples.labels, strict=True):
            for label, x1, y1, x2, y2 in boxes[boxes[:, 0] != NONE]:
                assert 0 <= x1 < x2 <= picture.shape[1] and 0 <= y1 < y2 <= picture.shape[0]
                red, _, blue = picture[int((y1 + y2) / 2), int((x1 + x2) / 2)]
                assert (blue > 200 > red) if label == 0 else (red > 200 > blue)
                seen += 1
    assert seen > 10


SPOILED_LABELS = {
    "a label that is none": ([[5, 1, 1, 9, 9]], "a box's label must be a number from 0 to 1"),
    "no area": ([[0, 1, 1, 1, 9]], "a box has no area"),
    "NaN": ([[0, 1, 1, float("nan"), 9]], "its edges finite"),
    "three values": ([[0, 1, 1]], "no rows of label, x1, y1, x2, y2"),
    "words": ([["a", 1, 1, 5, 5]], "no rows of label, x1, y1, x2, y2"),
}


@pytest.mark.parametrize("name", SPOILED_LABELS)
def test_boxes_of_one_s_own_data_py_are_checked(name: str) -> None:
    boxes, why = SPOILED_LABELS[name]
    part = Split([np.zeros((32, 32, 3), np.uint8)] * 2, [[[0, 1, 1, 9, 9]], boxes])
    with pytest.raises(DataError, match=f"train: recording 1: .*{why}"):
        prepare_splits(Splits(("a", "b"), part, part, part), [], "detection")
