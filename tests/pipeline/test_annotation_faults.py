"""What is wrong in files of boxes is refused by name, and never read as something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from annotated import LABELS, coco
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
