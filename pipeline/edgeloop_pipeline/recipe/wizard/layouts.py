"""Detects folders with masks or lists of pictures, which are no class folders, and says what is possible with them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.places import beginning_of
from edgeloop_pipeline.data.datasets.scanning import is_hidden, kind_of

IMAGES = ("images", "imgs", "image", "img", "jpegimages", "pictures", "photos", "input", "inputs")
MASKS = (
    "masks", "mask", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "labels", "annotations", "gt",
    "groundtruth", "ground_truth",
)  # fmt: skip
LOOKED_AT_BYTES = 1 << 20
MAX_FOLDERS = 2000
BOX = re.compile(r"^\d+( (0?\.\d+|0|1|[01]\.\d+(e-?\d+)?)){4,}\s*$")
POSSIBLE = (
    "edgeloop new makes networks that classify whole pictures, give them several labels, find boxes and points, label pixels,"
    " estimate quantities or find anomalies: give boxes as COCO, YOLO, Pascal VOC or CSV, masks as COCO or as PNG in masks/ beside"
    " images/ with no other folder, several labels as a table of files,"
    " or write a data.py and a network of your own"
)


def refuse_annotated(root: Path) -> None:
    """Refuse boxes that the readers do not know, and pictures with masks. Raises DataError."""
    for folder, names, files in _walk(root):
        place = "" if folder == root else f"{folder.relative_to(root)}/"
        found = _coco(folder, files, place) or _yolo(folder, files, place) or _voc(folder, files, place)
        found = found or _masks(folder, names, files)
        if found:
            raise DataError(f"{root}: looks like {found}; {POSSIBLE}")
        listed = _listed(root, folder, files)
        if listed:
            raise DataError(
                f"{root}: {place}{listed} names pictures with one label each; sort them into a folder for each class, and give"
                " their folder, or say --task multilabel"
            )


def _walk(root: Path) -> list[tuple[Path, list[str], list[str]]]:
    found = []
    for where, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found.append((Path(where), folders, sorted(name for name in files if not is_hidden(name))))
        if len(found) >= MAX_FOLDERS:
            break
    return found


def _head(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return beginning_of(file.read(LOOKED_AT_BYTES))
    except OSError:
        return ""


def _coco(folder: Path, files: list[str], place: str) -> str:
    for name in files:
        if name.lower().endswith(".json"):
            text = _head(folder / name)
            if '"images"' in text and ('"annotations"' in text or '"categories"' in text):
                return f"COCO: boxes or masks in {place}{name}"
    return ""


def _yolo(folder: Path, files: list[str], place: str) -> str:
    texts = [name for name in files if name.lower().endswith(".txt") and name.lower() not in ("classes.txt", "readme.txt")]
    if texts and sum(_is_boxes(folder / name) for name in texts[:20]) * 2 > min(20, len(texts)):
        return f"YOLO: boxes in {place}*.txt"
    for name in files:
        if name.lower().endswith((".yaml", ".yml")):
            text = _head(folder / name)
            if re.search(r"^names\s*:", text, re.M) and re.search(r"^train\s*:", text, re.M):
                return f"YOLO: boxes, described in {place}{name}"
    return ""


def _is_boxes(path: Path) -> bool:
    lines = _head(path).splitlines()
    return bool(lines) and all(BOX.match(line) for line in lines[:20] if line.strip())


def _voc(folder: Path, files: list[str], place: str) -> str:
    for name in [name for name in files if name.lower().endswith(".xml")][:5]:
        text = _head(folder / name)
        if "<annotation" in text and ("<object>" in text or "<bndbox>" in text or "<filename>" in text):
            return f"Pascal VOC: boxes in {place}*.xml"
    return ""


def _masks(folder: Path, names: list[str], files: list[str]) -> str:
    """Says where pictures have masks: files of the same name in a folder of masks, or NAME_mask beside them; '' for none."""
    lower = {name.lower(): name for name in names}
    masks = [lower[name] for name in MASKS if name in lower]
    images = [lower[name] for name in IMAGES if name in lower]
    for mask in masks:
        theirs = _stems(folder / mask)
        for image in images:
            ours = _stems(folder / image)
            if ours and len(ours & theirs) * 2 >= len(ours):
                return f"pictures with masks: {image}/ and {mask}/ hold files of the same names"
    pictures = {Path(name).stem for name in files if kind_of(Path(name)) == "pictures"}
    twins = {stem for stem in pictures if re.sub(r"_?(mask|seg|gt)(_\d+)?$", "", stem) != stem}
    if len(twins) * 4 >= len(pictures) > 0 and all(re.sub(r"_?(mask|seg|gt)(_\d+)?$", "", stem) in pictures for stem in twins):
        return f"pictures with masks: {folder.name}/ holds NAME and NAME_mask"
    return ""


def _stems(folder: Path) -> set[str]:
    """The stems of the pictures below the folder, without the endings of mask names."""
    found = set()
    for _, _, files in os.walk(folder):
        found |= {re.sub(r"_?(mask|seg|gt)$", "", Path(name).stem) for name in files if kind_of(Path(name)) == "pictures"}
    return found


def _listed(root: Path, folder: Path, files: list[str]) -> str:
    """The name of a table with the pictures' names in one of its columns; '' for none."""
    tables = [name for name in files if name.lower().endswith((".csv", ".tsv"))]
    if not tables or folder != root:
        return ""
    pictures = _stems(root)
    for name in tables:
        rows = [re.split(r"[,;\t]", line) for line in _head(folder / name).splitlines()[1:50]]
        for column in range(max((len(row) for row in rows), default=0)):
            cells = [Path(row[column].strip('" ')).stem for row in rows if len(row) > column]
            if pictures and sum(cell in pictures for cell in cells) * 2 > len(rows):
                return name
    return ""
