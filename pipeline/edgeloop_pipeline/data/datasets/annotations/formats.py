"""The known formats of boxes, and which one a folder has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations import boxes_csv, coco, voc, yolo
from edgeloop_pipeline.data.datasets.annotations.pictures import Annotations, Findings, Given, annotated

__all__ = ["FORMATS", "format_of", "read_annotations"]


class Format(NamedTuple):
    """`files`: the annotation files below a folder, [] where it has none of this format; `read`: classes and pictures."""

    title: str
    files: Callable[[Path], list[Path]]
    read: Callable[[Path, Findings], tuple[list[str], Iterator[Given]]]


FORMATS = {
    "coco": Format("COCO JSON", coco.files, coco.read),
    "voc": Format("Pascal VOC XML", voc.files, voc.read),
    "yolo": Format("YOLO text", yolo.files, yolo.read),
    "csv": Format("CSV", boxes_csv.files, boxes_csv.read),
}


def format_of(root: Path) -> str:
    """The format of the boxes below the folder; "" where there are none. Raises DataError where two formats are there."""
    found = [name for name, kind in FORMATS.items() if kind.files(root)]
    if len(found) > 1:
        titles = " and ".join(FORMATS[name].title for name in found)
        raise DataError(f"{root}: has boxes as {titles}; say in data.py which one counts: format={found[0]!r}")
    return found[0] if found else ""


def read_annotations(root: Path, kind: str = "") -> Annotations:
    """Read all boxes below a folder. `kind`: the format, where several are there. Raises DataError."""
    root = root.resolve()
    if not root.exists():
        raise DataError(f"{root}: no such folder; correct the path in data.py")
    name = kind or format_of(root)
    if name not in FORMATS:
        raise DataError(f"{root}: no boxes as {', '.join(f.title for f in FORMATS.values())}; give the folder that holds them")
    if not FORMATS[name].files(root):
        raise DataError(f"{root}: no boxes as {FORMATS[name].title}; leave out format, or give the right folder")
    findings = Findings()
    names, given = FORMATS[name].read(root, findings)
    return annotated(root, name, names, given, findings)
