"""Pascal VOC: an XML file for each picture, boxes in pixels; ImageSets/Main names the splits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.pictures import Box, Findings, Given
from edgeloop_pipeline.data.datasets.annotations.places import Pictures, split_of, text_of, visible

MAX_BYTES = 16 << 20  # of one file
LOOKED_AT = 5
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def files(root: Path) -> list[Path]:
    """The annotation files below the folder."""
    named = [] if root.is_file() else [p for p in visible(root) if p.suffix.lower() == ".xml"]
    return named if any(_looks_so(path) for path in named[:LOOKED_AT]) else []


def _looks_so(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            text = file.read(1 << 16)
    except OSError:
        return False
    return b"<annotation" in text and (b"<object>" in text or b"<bndbox>" in text or b"<filename>" in text)


def read(root: Path, findings: Findings) -> tuple[list[str], Iterator[Given]]:
    """Names of the classes, sorted, and the pictures. Raises DataError."""
    named = files(root)
    pictures, sets = Pictures(root), _image_sets(root)
    given = []
    for path in named:
        tree = _tree(path, findings)
        if tree is not None:
            given.append(_given(path, tree, pictures, sets, findings))
    seen = {one.path for one in given}
    bare = [path for path in pictures.all if path not in seen]
    if bare:
        findings.add("pictures without an annotation file, left out", bare[0].name, len(bare))
    return sorted({box.label for one in given for box in one.boxes}), iter(given)


def _tree(path: Path, findings: Findings) -> ElementTree.Element | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error
    if len(data) > MAX_BYTES or b"<!ENTITY" in data:  # entities can grow to any size
        findings.add("files that are no annotations", path.name)
        return None
    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError):
        findings.add("files that are no annotations", path.name)
        return None
    return tree if tree.tag == "annotation" else None


def _given(path: Path, tree: ElementTree.Element, pictures: Pictures, sets: dict[str, str], findings: Findings) -> Given:
    boxes = []
    for thing in tree.iter("object"):
        label, box = (thing.findtext("name") or "").strip(), thing.find("bndbox")
        try:
            edges = [float((box.findtext(name) if box is not None else None) or "nan") for name in CORNERS]
        except ValueError:
            edges = [float("nan")] * 4
        if not label:
            findings.add("boxes without a label", path.name)
        else:
            boxes.append(Box(label, edges[0], edges[1], edges[2], edges[3]))
    size = None
    try:
        size = int(float(tree.findtext("size/width") or 0)), int(float(tree.findtext("size/height") or 0))
    except ValueError:
        findings.add("annotations whose size is no number", path.name)
    name = (tree.findtext("filename") or "").strip()
    place = pictures.named(name or path.stem, near=path.parent)
    by_stem = pictures.named(path.stem, near=path.parent)
    if not place.is_file() and by_stem.is_file():  # the older convention
        place = by_stem
    split = sets.get(path.stem, sets.get(place.stem, "")) if sets else split_of(place.relative_to(pictures.root).parent / "_")
    return Given(place, boxes, split, size if size and all(size) else None)


def _image_sets(root: Path) -> dict[str, str]:
    """Picture → split, by train.txt, val.txt and test.txt of ImageSets/Main; without a train.txt, trainval.txt counts."""
    found: dict[str, str] = {}
    lists = {p.stem.lower(): p for p in visible(root) if p.suffix.lower() == ".txt" and p.parent.name.lower() == "main"}
    wanted = {"val": "validation", "test": "test", "train": "train"} | ({"trainval": "train"} if "train" not in lists else {})
    for name, split in wanted.items():
        if name not in lists:
            continue
        for line in text_of(lists[name]).splitlines():
            words = line.split()
            if not words or (len(words) > 1 and words[1] == "-1"):
                continue
            before = found.setdefault(words[0], split)
            if before != split and name != "trainval":
                raise DataError(f"{lists[name]}: {words[0]} is in {before} too; leave it in one split")
    return found
