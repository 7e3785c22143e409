"""What is wrong in files of boxes is refused by name, and never read as something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annotated import LABELS, coco, csv, yolo
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.formats import read_annotations


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """COCO as it is right, then changed."""
    coco(folder)
    content = json.loads((folder / "annotations.json").read_text())
    change(content)
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_a_picture_s_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    changed(tmp_path, lambda content: content["images"][5].update(id=2))
    with pytest.raises(DataError, match=r"two pictures have the id 2: p002.png and p005.png; give each its own"):
        read_annotations(tmp_path)


def test_ids_of_pictures_are_the_same_as_numbers_and_as_texts(tmp_path: Path) -> None:
    plain = read_annotations(changed(tmp_path / "a", lambda content: None))
    texts = read_annotations(changed(tmp_path / "b", lambda content: [i.update(id=str(i["id"])) for i in content["images"]]))
    assert texts.labels == LABELS and [p.boxes for p in texts.pictures] == [p.boxes for p in plain.pictures]


def test_coco_without_categories_or_with_unknown_pictures_says_so(tmp_path: Path) -> None:
    changed(tmp_path / "a", lambda content: content.pop("categories"))
    with pytest.raises(DataError, match=r"annotations.json: has no categories, and boxes get their labels from them"):
        read_annotations(tmp_path / "a")
    changed(tmp_path / "b", lambda content: [row.update(image_id=-1) for row in content["annotations"]])
    with pytest.raises(DataError, match=r"no box in 12 pictures can be used: \d+ boxes of pictures that are not listed \(annot"):
        read_annotations(tmp_path / "b")


@pytest.mark.parametrize("coding", ["utf-16", "utf-8-sig"])
def test_csv_in_utf_16_is_read(coding: str, tmp_path: Path) -> None:
    csv(tmp_path)
    text = (tmp_path / "boxes.csv").read_text()
    (tmp_path / "boxes.csv").write_text(text, encoding=coding)
    found = read_annotations(tmp_path)
    assert found.format == "csv" and found.labels == LABELS and sum(len(p.boxes) for p in found.pictures) == text.count(".png")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [("[yes, no]", ("yes", "no")), ("{0: 010, 1: 1.0}", ("010", "1.0")), ("[~, 1_0]", ("~", "1_0"))],
    ids=["words", "numbers", "null"],
)
def test_names_in_yaml_stay_as_they_are_written(names: str, wanted: tuple[str, str], tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: images/train\nval: images/val\ntest:\nnames: {names}\n")
    found = read_annotations(tmp_path)
    assert found.labels == wanted and found.splits == {"train", "validation"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda text: text.replace(" ", ","), r"txt: line 1 has commas; YOLO separates numbers by spaces"),
        (
            lambda text: "".join(f"{line[0]}.0{line[1:]}\n" for line in text.splitlines()),
            r"line 1 has the class [01]\.0; a class is",
        ),
    ],
    ids=["commas", "class 0.0"],
)
def test_yolo_written_in_another_way_is_refused_with_its_line(change: Callable[[str], str], why: str, tmp_path: Path) -> None:
    yolo(tmp_path)
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=why):
        read_annotations(tmp_path)


def test_an_empty_line_between_names_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("disc\r\n\r\nsquare\r\n")
    with pytest.raises(DataError, match=r"classes.txt: line 2 is empty, and a name's line is its class's number"):
        read_annotations(tmp_path)
    (tmp_path / "classes.txt").write_text("disc\r\nsquare\r\n\r\n")
    assert read_annotations(tmp_path).labels == LABELS


@pytest.mark.parametrize(("label", "why"), [("  ", "'  ' is empty"), ("a\nb", r"'a\\nb' is more than one line")])
def test_a_label_that_no_bundle_takes_is_refused(label: str, why: str, tmp_path: Path) -> None:
    changed(tmp_path, lambda content: content["categories"][0].update(name=label))
    with pytest.raises(DataError, match=f"the label {why}; rename it"):
        read_annotations(tmp_path)


def test_yolo_of_other_codings_is_read_and_what_is_no_text_is_refused(tmp_path: Path) -> None:
    yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("écran\nроза\n", encoding="utf-16")
    for path in (tmp_path / "labels").rglob("*.txt"):
        path.write_text(path.read_text(), encoding="utf-16")
    assert read_annotations(tmp_path).labels == ("écran", "роза")
    (tmp_path / "classes.txt").write_text("écran\nrose\n", encoding="latin-1")
    assert read_annotations(tmp_path).labels == ("écran", "rose")
    (tmp_path / "classes.txt").write_text("disc\nsquare\n", encoding="utf-16-le")
    with pytest.raises(DataError, match=r"classes.txt: holds zero bytes: not text, or UTF-16 without its mark; save it as UTF-8"):
        read_annotations(tmp_path)
