"""COCO's outlines as masks: read as COCO's own tools read them, recognised by `edgeloop new`, and counted where they are broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from annotated import LABELS, coco
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE, run_lengths
from edgeloop_pipeline.data.datasets import CocoMasks
from edgeloop_pipeline.data.datasets.annotations.outlines import outline_of, polygon_mask
from edgeloop_pipeline.recipe.wizard.look import look
from edgeloop_pipeline.recipe.wizard.write import write
from masked import outlined

tools = pytest.importorskip("faster_coco_eval.core.mask")
SIDES = st.integers(1, 40)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), SIDES, SIDES, st.floats(0, 1))
def test_run_lengths_are_read_as_coco_s_tools_write_them(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    text = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for counts in (text if isinstance(text, str) else text.decode(), run_lengths(mask)):
        found = outline_of({"size": [height, width], "counts": counts})
        assert found is not None and (found.mask(height, width) == mask).all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(-6, 46, width=16), st.floats(-6, 46, width=16)), min_size=3, max_size=8), SIDES, SIDES)
def test_polygons_have_the_pixels_that_coco_s_tools_give_them(corners: list[tuple[float, float]], height: int, width: int) -> None:
    """Also where they cross themselves, or leave the picture."""
    flat = [float(v) for corner in corners for v in corner]
    wanted = tools.decode(tools.merge(tools.frPyObjects([flat], height, width)))
    assert (polygon_mask(np.array(corners), height, width) == wanted.astype(bool)).all()


BROKEN: dict[str, Any] = {
    "text that is cut off": {"size": [4, 4], "counts": "`"},
    "another alphabet": {"size": [4, 4], "counts": "äö"},
    "no text": {"size": [4, 4], "counts": ""},
    "a number without end": {"size": [4, 4], "counts": "o" * 40 + "0"},
    "too few pixels": {"size": [4, 4], "counts": [3, 4]},
    "negative lengths": {"size": [2, 2], "counts": [6, -2]},
    "no numbers": {"size": [2, 2], "counts": [1.5, 2.5]},
    "no size": {"counts": [4]},
    "a size of one number": {"size": [4], "counts": [4]},
    "two corners": [[0, 0, 1, 1]],
    "half a corner": [[0, 0, 1, 1, 2, 2, 3]],
    "corners that are texts": [["a"] * 6],
    "no list": [5],
    "a word": "polygon",
    "infinity": [[0, 0, 1, float("inf"), 2, 2]],
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_outlines_are_refused(name: str) -> None:
    with pytest.raises(DataError):
        outline_of(BROKEN[name])


@pytest.mark.parametrize("how", ["polygons", "lengths", "text"])
def test_every_form_becomes_the_same_masks_and_edgeloop_new_recognises_it(how: str, tmp_path: Path) -> None:
    found = outlined(tmp_path / "data", 15, how)
    plan = look(tmp_path / "data")
    assert plan.task == "segmentation" and plan.kind == "CocoMasks" and plan.distinct == ("background", *LABELS)
    wanted = "0 outlines of polygons" if how != "polygons" else "0 of run lengths"
    assert wanted in plan.says[0][1]
    write(tmp_path / "mine", plan)
    scope: dict = {"__file__": str(tmp_path / "mine" / "data.py")}
    exec((tmp_path / "mine" / "data.py").read_text(), scope)
    splits = scope["data"]().load()
    for part in (splits.train, splits.validation, splits.test):
        for name, mask in zip(part.names, part.labels, strict=True):
            assert (mask == found[Path(name).name]).all()
    assert len(splits.test.labels) == 2


def test_boxes_come_first_unless_masks_are_asked_for(tmp_path: Path) -> None:
    outlined(tmp_path / "data", 15, boxes=True)
    plan = look(tmp_path / "data")
    assert plan.task == "detection" and ("masks", "most boxes have outlines too: --task segmentation labels pixels") in plan.says
    assert look(tmp_path / "data", "segmentation").kind == "CocoMasks"
    coco(tmp_path / "bare", 12)
    with pytest.raises(DataError, match="0 outlines can be used"):
        look(tmp_path / "bare", "segmentation")


def squares(folder: Path, rows: list[dict[str, Any]], size: tuple[int, int] = (8, 6), stored: Any = None, exif: int = 1) -> None:
    """Three pictures of `size` (width, height) with the same annotations."""
    folder.mkdir()
    for number in range(3):
        pixels = np.zeros((size[1], size[0]), np.uint8) if stored is None else stored.copy()
        pixels[0, 0] = number  # equal pictures would stay in one split
        image = Image.fromarray(pixels)
        head = Image.Exif()
        head[274] = exif
        image.save(folder / f"p{number}.png", exif=head)
    images = [{"id": n, "file_name": f"p{n}.png", "width": 8, "height": 6} for n in range(3)]
    every = [{"image_id": n, "category_id": 1, **row} for n in range(3) for row in rows]
    names = [{"id": 1, "name": "table"}, {"id": 2, "name": "cup"}]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": every, "categories": names}))


TABLE = {"segmentation": [[1, 1, 7, 1, 7, 5, 1, 5]]}
CUP = {"segmentation": [[2, 2, 4, 2, 4, 4, 2, 4]], "category_id": 2}


def first(data: CocoMasks) -> np.ndarray:
    return np.asarray(data.load().train.labels[0])


def test_overlaps_crowds_and_boxes_alone(tmp_path: Path) -> None:
    squares(tmp_path / "a", [CUP, TABLE])
    smaller, later = first(CocoMasks(tmp_path / "a")), first(CocoMasks(tmp_path / "a", overlap="later"))
    assert smaller[3, 3] == 2 and later[3, 3] == 1 and smaller[1, 1] == later[1, 1] == 1 and smaller[0, 0] == 0
    only = first(CocoMasks(tmp_path / "a", labels=("cup",)))
    assert only[3, 3] == 1 and only[1, 1] == 0
    crowd = {"segmentation": {"size": [6, 8], "counts": [0, 48]}, "iscrowd": 1}
    squares(tmp_path / "b", [CUP, crowd, {"bbox": [6, 0, 2, 2]}])
    data = CocoMasks(tmp_path / "b")
    mask = first(data)
    assert mask[3, 3] == 1 and mask[0, 0] == mask[0, 7] == NOWHERE and data.names == ("background", "cup")
    lines = " ".join(data.findings.lines())
    assert "3 crowds, whose pixels are not known" in lines and "3 annotations without an outline" in lines
    with pytest.raises(DataError, match="no outline of 'fork'; there are cup"):
        CocoMasks(tmp_path / "b", labels=("fork",)).load()


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])  # in the others, the size does not show it
def test_masks_turn_with_pictures_that_were_annotated_as_stored(orientation: int, tmp_path: Path) -> None:
    """A picture is bright where its outline is, stored; read upright, it must be bright where the mask is."""
    stored = np.zeros((6, 8), np.uint8)
    stored[2:5, 1:4] = 255
    rows = [{"segmentation": [[1, 2, 4, 2, 4, 5, 1, 5]]}]
    squares(tmp_path / "a", rows, stored=stored, exif=orientation)
    train = CocoMasks(tmp_path / "a").load().train
    picture, mask = np.asarray(train.recordings[0]).squeeze(), np.asarray(train.labels[0])
    assert mask.shape == picture.shape and (mask == (picture > 100)).all()


Spoil = Callable[[dict[str, Any]], None]


def every_outline_broken(data: dict[str, Any]) -> None:
    for row in data["annotations"]:
        row["segmentation"] = {"size": [96, 128], "counts": "`"}


def another_size(data: dict[str, Any]) -> None:
    for row in data["annotations"]:
        row["segmentation"] = {"size": [10, 10], "counts": [100]}


def twice(data: dict[str, Any]) -> None:
    data["images"].append({**data["images"][0], "id": 99})


def no_categories(data: dict[str, Any]) -> None:
    data["categories"] = []


REFUSED: dict[str, tuple[Spoil, str]] = {
    "every outline broken": (every_outline_broken, "0 outlines can be used"),
    "outlines of another size": (another_size, "outlines of another size than their picture"),
    "a picture listed twice": (twice, "p000.png: is listed twice"),
    "no categories": (no_categories, "has no categories"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_gives_no_masks_is_one_sentence(name: str, tmp_path: Path) -> None:
    spoil, why = REFUSED[name]
    outlined(tmp_path / "data", 8, "lengths")
    path = tmp_path / "data" / "annotations.json"
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError) as caught:
        look(tmp_path / "data", "segmentation")
    assert why in str(caught.value) and "\n" not in str(caught.value)


def test_a_few_broken_outlines_are_counted(tmp_path: Path) -> None:
    outlined(tmp_path / "data", 12, "text")
    path = tmp_path / "data" / "annotations.json"
    data = json.loads(path.read_text())
    data["annotations"][0] |= {"segmentation": {"size": [96, 128], "counts": "`"}, "bbox": [0, 0, 10, 10]}
    data["annotations"][1]["image_id"] = 77
    path.write_text(json.dumps(data))
    made = CocoMasks(tmp_path / "data")
    lines = " ".join(made.findings.lines())
    assert "1 broken outlines, whose pixels are not known" in lines and "1 outlines of pictures that are not listed" in lines
    index = next(i for i, p in enumerate(made.pictures) if p.path.name == "p000.png")
    assert any(thing.box == (0, 0, 10, 10) for thing in made.pictures[index].things)
