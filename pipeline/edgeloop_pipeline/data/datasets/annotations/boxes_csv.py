"""CSV: a row for each box with the picture's name, a label and four edges, in pixels or all as shares of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.pictures import Box, Findings, Given
from edgeloop_pipeline.data.datasets.annotations.places import Pictures, beginning_of, visible
from edgeloop_pipeline.data.datasets.reading import Column, read_table
from edgeloop_pipeline.data.datasets.scanning import SPLITS

NAMES = ("filename", "file_name", "file", "image", "image_name", "image_path", "img", "path", "picture", "image_id")
LABELS = ("class", "label", "name", "category", "class_name", "classname", "labelname")
EDGES = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("left", "top", "right", "bottom"),
)
SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("bbox_x", "bbox_y", "bbox_width", "bbox_height"))
LARGEST_SHARE = 1.0


def files(root: Path) -> list[Path]:
    """The tables below the folder (or the file itself) whose header names a picture, a label and four edges."""
    named = [root] if root.is_file() else [p for p in visible(root) if p.suffix.lower() in (".csv", ".tsv")]
    return [path for path in named if path.suffix.lower() in (".csv", ".tsv") and _looks_so(path)]


def _looks_so(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = beginning_of(file.read(1 << 16)).splitlines()[:1]
    except OSError:
        return False
    words = {word.strip().strip('"') for word in "".join(head).lower().replace("\t", ",").replace(";", ",").split(",")}
    edges = any(set(four) <= words for four in (*EDGES, *SIZES))
    return edges and any(name in words for name in NAMES) and any(name in words for name in LABELS)


def read(root: Path, findings: Findings) -> tuple[list[str], Iterator[Given]]:
    """Names of the classes, sorted, and the pictures. Raises DataError."""
    pictures = Pictures(root if root.is_dir() else root.parent)
    given: dict[tuple[Path, str], list[Box]] = {}
    shares = False
    for path in files(root):
        columns = {name.lower(): column for name, column in read_table(path).items()}
        name, label = (_column(columns, names) for names in (NAMES, LABELS))
        edges, in_shares = _edges(path, columns)
        shares = shares or in_shares
        split = columns.get("split") or columns.get("subset")
        for i, text in enumerate(name.texts.tolist()):
            side = SPLITS.get(split.texts[i].lower(), "") if split is not None else ""
            rows = given.setdefault((pictures.named(text, near=path.parent), side), [])
            if not np.isfinite(edges[i]).all() and not label.texts[i]:
                continue  # a picture without boxes
            if not label.texts[i]:
                findings.add("boxes without a label", path.name)
            else:
                rows.append(Box(str(label.texts[i]), *edges[i].tolist()))
    named = {path for path, _ in given}
    bare = [path for path in pictures.all if path not in named]
    if bare:
        findings.add("pictures that no row names, left out", bare[0].name, len(bare))
    names_found = sorted({box.label for boxes in given.values() for box in boxes})
    return names_found, (Given(path, boxes, side, normalised=shares) for (path, side), boxes in given.items())


def _column(columns: dict[str, Column], names: tuple[str, ...]) -> Column:
    return next(columns[name] for name in names if name in columns)


def _edges(path: Path, columns: dict[str, Column]) -> tuple[np.ndarray, bool]:
    """x1, y1, x2, y2 (rows, 4), and whether they are shares. Raises DataError where both kinds are mixed."""
    four = next((names for names in EDGES if all(name in columns for name in names)), None)
    if four is not None:
        values = np.stack([columns[name].numbers for name in four], 1)
    else:
        sizes = next(names for names in SIZES if all(name in columns for name in names))
        values = np.stack([columns[name].numbers for name in sizes], 1)
        values = np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], 1)
    known = values[np.isfinite(values).all(1)]
    within = (np.abs(known) <= LARGEST_SHARE).all(1)
    if len(known) and within.any() and not within.all():
        row = int(np.flatnonzero(within != within[0])[0])
        what = "shares" if within[row] else "pixels"
        raise DataError(f"{path}: row {row + 2} has {what}, the rows before have {'pixels' if within[row] else 'shares'}; use one")
    return values, bool(len(known) and within.all())
