"""JSON lines with a recording's file and labels in each; COCO with a picture's categories in place of boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations import coco
from edgeloop_pipeline.data.datasets.annotations.pictures import Findings
from edgeloop_pipeline.data.datasets.annotations.places import Pictures, split_of, text_of
from edgeloop_pipeline.data.datasets.label_lists.rows import Listed
from edgeloop_pipeline.data.datasets.label_lists.tables import FILE_NAMES, LISTS, SPLIT_COLUMNS, labels_in, split_named

__all__ = ["OBJECTS", "category_rows", "is_line_list", "line_rows"]

OBJECTS = (".jsonl", ".ndjson")
HEAD = 1 << 16


def is_line_list(path: Path) -> bool:
    """Whether the first line of a file is an object with a file's name and labels."""
    try:
        with path.open("rb") as file:
            first = msgspec.json.decode(file.readline(HEAD))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return isinstance(first, dict) and bool(_key(first, FILE_NAMES)) and bool(_key(first, LISTS))


def _key(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((key for name in names for key in row if key.lower() == name), "")


def line_rows(path: Path, places: Pictures) -> list[Listed]:
    """A row for each line. Raises DataError that names the line."""
    found = []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = msgspec.json.decode(line.encode())
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
            raise DataError(f"{where}: is not JSON ({error}); repair it") from error
        name, given = (_key(row, names) if isinstance(row, dict) else "" for names in (FILE_NAMES, LISTS))
        if not name or not given or not isinstance(row[name], str):
            raise DataError(f"{where}: must be an object with a file's name and labels, as {{'file': 'a.jpg', 'labels': ['cat']}}")
        labels = labels_in(row[given]) if isinstance(row[given], str) else row[given] or []
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise DataError(f"{where}: {given} must be a list of texts")
        split = _key(row, SPLIT_COLUMNS)
        side = split_named(str(row[split] or ""), where) if split else ""
        found.append(Listed(places.named(row[name], near=path.parent, prefer=side), frozenset(labels), frozenset(), side))
    return found


def category_rows(path: Path, places: Pictures, several: bool, findings: Findings) -> tuple[list[str], Iterator[Listed]]:
    """Names of the categories, and the pictures of a COCO file with those that each has, by boxes or without. Raises DataError."""
    data = coco.decoded(path)
    names = {category.id: category.name for category in data.categories}
    if not names:
        raise DataError(f"{path}: has no categories, and labels get their names from them; export it with categories")
    has: dict[str, set[str]] = {number: set() for number in coco.empty(path, data)}
    for row in data.annotations:
        if str(row.image_id) not in has:
            findings.add("labels of pictures that are not listed", path.name)
        elif row.category_id not in names:
            findings.add("labels of a category that is not listed", path.name)
        else:
            has[str(row.image_id)].add(names[row.category_id])
    split = split_of(path) if several else ""
    rows = (
        Listed(places.named(image.file_name, near=path.parent, prefer=split), frozenset(has[str(image.id)]), frozenset(), split)
        for image in data.images
    )
    return list(names.values()), rows
