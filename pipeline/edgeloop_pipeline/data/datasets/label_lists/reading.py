"""Finds the list of a folder, whatever its format, and reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations import coco
from edgeloop_pipeline.data.datasets.annotations.formats import FORMATS, format_of, read_annotations
from edgeloop_pipeline.data.datasets.annotations.pictures import Findings
from edgeloop_pipeline.data.datasets.annotations.places import Pictures, split_of, visible
from edgeloop_pipeline.data.datasets.label_lists import objects, tables
from edgeloop_pipeline.data.datasets.label_lists.rows import LabelList, Listed, checked_list
from edgeloop_pipeline.data.datasets.reading import ENDINGS, read_table
from edgeloop_pipeline.data.datasets.scanning import SPLITS, kind_of

__all__ = ["KINDS", "has_label_list", "has_places", "read_list"]

KINDS = ("pictures", "sound", "series")
MAX_TABLES = 50  # at the top of a folder: with more, they are recordings


def has_label_list(root: Path) -> bool:
    """Whether a folder has a list that gives recordings several labels: no list of single classes, and no boxes."""
    if not root.is_dir():
        return False
    if any(_without_boxes(path) for path in coco.files(root)):
        return True
    lists = _lists(root)
    try:
        found = read_list(root) if lists else None
    except DataError:
        return True  # its problem is told when it is read
    if found is None or found.single:
        return False
    # Columns of 0 and 1 beside class folders say other things, as whether a recording was checked.
    folders = {row.path.parent.name.lower() for row in found.rows} - set(SPLITS)
    return not found.zero_one or (len(found.labels) > 1 and len(folders) < 2)


def read_list(root: Path, table: str = "", labels: tuple[str, ...] = (), kind: str = "") -> LabelList:
    """Read the list below a folder. `table`: its file, where there are several; `labels`: columns of 0 and 1. Raises DataError.

    Without a list, the labels of a picture are those of its boxes.
    """
    root = root.resolve()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; correct the path in data.py")
    if table and not (root / table).is_file():
        raise DataError(f"{root / table}: no such file; correct table in data.py")
    findings, places = Findings(), Pictures(root, KINDS)
    files = [root / table] if table else _lists(root) or [p for p in coco.files(root) if _without_boxes(p)]
    if not files:
        return _of_boxes(root, findings)
    several = len(files) > 1
    if several and len({split_of(path) for path in files} - {""}) != len(files):
        shown = ", ".join(path.name for path in files[:5])
        raise DataError(f"{root}: has several lists of labels ({shown}); say in data.py which one counts: table={files[0].name!r}")
    names: list[str] = []
    rows: list[Listed] = []
    how = ""
    for path in files:
        some, made, how = _of_file(path, places, labels, several, findings)
        names += some
        rows += made
    listed = {row.path for row in rows}
    found = checked_list(root, how, files, names, rows, findings, kind)
    bare = [path for path in _of_kind(root, found.kind) if path not in listed and path not in files]
    if bare:
        findings.add("recordings that no row names, left out", bare[0].name, len(bare))
    return replace(found, zero_one=" columns of 0 and 1" in how)


def _of_kind(root: Path, kind: str) -> list[Path]:
    return Pictures(root, (kind,)).all


def _of_file(
    path: Path, places: Pictures, labels: tuple[str, ...], several: bool, findings: Findings
) -> tuple[list[str], list[Listed], str]:
    """Names, rows, and how they are written."""
    split = split_of(path) if several else ""
    if path.suffix.lower() == ".json":
        names, rows = objects.category_rows(path, places, several, findings)
        return names, list(rows), f"COCO categories of pictures in {path.name}"
    if path.suffix.lower() in objects.OBJECTS:
        made = objects.line_rows(path, places)
        names, how = sorted({label for row in made for label in row.has}), f"JSON lines in {path.name}"
    else:
        roles, names, given = tables.rows_of(path, places, labels, findings)
        made = list(given)
        what = f"column {roles.labels[0]!r}" if roles.listed else f"{len(roles.labels)} columns of 0 and 1"
        how = f"{path.name}, {what}, files in column {roles.file!r}"
    return names, [Listed(r.path, r.has, r.unknown, r.split or split or _folder_split(r.path, places)) for r in made], how


def _folder_split(path: Path, places: Pictures) -> str:
    """The split that a folder below the root says."""
    inside = path.relative_to(places.root).parent if path.is_relative_to(places.root) else Path()
    return split_of(inside / "x") if inside.parts else ""


def _of_boxes(root: Path, findings: Findings) -> LabelList:
    """The labels of each picture's boxes."""
    kind = format_of(root)
    if not kind:
        raise DataError(f"{root}: no list of labels: give a table with a file's name and labels in each row, JSON lines, or COCO")
    found = read_annotations(root, kind)
    findings.notes += found.findings.notes
    rows = [Listed(p.path, frozenset(box.label for box in p.boxes), frozenset(), p.split) for p in found.pictures]
    return checked_list(
        root, f"the labels of boxes as {FORMATS[kind].title}", FORMATS[kind].files(root), found.labels, rows, findings
    )


def _lists(root: Path) -> list[Path]:
    """Tables and JSON lines at the top of a folder, or in folders of annotations, that name files below it with labels."""
    every = visible(root)
    objects_ = [path for path in every if path.suffix.lower() in objects.OBJECTS and objects.is_line_list(path)]
    top = [path for path in every if path.suffix.lower() in ENDINGS and len(path.relative_to(root).parts) == 1]
    if len(top) > MAX_TABLES or not any(kind_of(path) for path in every if path not in top):
        return objects_
    places = Pictures(root, KINDS)
    return [*objects_, *(path for path in top if _quietly(lambda path=path: _names_files(path, places)))]  # type: ignore[misc]


def _names_files(path: Path, places: Pictures) -> bool:
    """Whether a table names other files; a recording may have a column with its own number."""
    table = read_table(path)
    roles = tables.roles_of(table, places)
    return roles is not None and path.stem not in {Path(str(cell)).stem for cell in table[roles.file].texts.tolist()}


def has_places(root: Path) -> bool:
    """Whether COCO files below a folder say where in their pictures things are."""
    return not all(_without_boxes(path) for path in coco.files(root))


def _without_boxes(path: Path) -> bool:
    """Whether a COCO file has annotations, and none of them a place in the picture."""
    return _quietly(lambda: coco.only_categories(path))


def _quietly(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except DataError:
        return False
