"""A table with a row for each recording: its file's name, and labels in one column, or a column of 0 and 1 for each label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.tables import number
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations.boxes_csv import NAMES
from edgeloop_pipeline.data.datasets.annotations.pictures import Findings
from edgeloop_pipeline.data.datasets.annotations.places import Pictures
from edgeloop_pipeline.data.datasets.label_lists.rows import Listed
from edgeloop_pipeline.data.datasets.reading import Column, read_table
from edgeloop_pipeline.data.datasets.scanning import SPLITS, kind_of

__all__ = ["Roles", "labels_in", "roles_of", "rows_of", "split_named"]

LISTS = ("labels", "tags", "classes", "categories", "label", "tag", "class", "category", "genres", "finding labels", "attributes")
SPLIT_COLUMNS = ("split", "subset", "set", "fold", "partition")
SEPARATORS = re.compile(r"\s*[;|,]\s*")
YES, NO, UNKNOWN = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no"), ("", "-1", "-1.0", "nan", "na", "n/a", "?")
MOSTLY = 0.5  # of a column's cells that are names of files
FILE_NAMES = (*NAMES, "audio", "sound", "recording", "fname", "id")


@dataclass(frozen=True)
class Roles:
    """What the columns are. `labels`: one with names, or several of 0 and 1. `left_out`: column → why."""

    file: str
    labels: tuple[str, ...]
    listed: bool
    split: str
    left_out: dict[str, str]


def roles_of(table: dict[str, Column], places: Pictures, wanted: tuple[str, ...] = ()) -> Roles | None:
    """The roles of the columns; None where no column names files, or none has labels. `wanted`: columns of 0 and 1."""
    file = _file_column(table, places)
    if not file:
        return None
    split = next((name for name in table if name.lower() in SPLIT_COLUMNS), "")
    rest = [name for name in table if name not in (file, split)]
    lists = [name for kind in LISTS for name in rest if name.lower() == kind and not _is_zero_one(table[name])]
    if lists and not wanted:
        return Roles(file, (lists[0],), True, split, {name: "no labels" for name in rest if name != lists[0]})
    columns = tuple(name for name in rest if (name in wanted if wanted else _is_zero_one(table[name])))
    left = {name: "no labels: it has other values than 0 and 1" for name in rest if name not in columns}
    return Roles(file, columns, False, split, left) if columns else None


def _file_column(table: dict[str, Column], places: Pictures) -> str:
    """The column whose cells are most often the names of files."""
    best, most = "", 0.0
    for name, column in table.items():
        named = name.lower() in FILE_NAMES
        cells = [str(cell) for cell in column.texts.tolist() if cell and (named or number(str(cell)) is None)]
        # A column of that name is one of files although they are not there: then that is said, and not that rows are samples.
        share = sum(places.has(cell) or (named and bool(kind_of(Path(cell)))) for cell in cells) / max(1, len(column.texts))
        share += named * 1e-3
        if share > max(most, MOSTLY):
            best, most = name, share
    return best


def _is_zero_one(column: Column) -> bool:
    cells = {str(cell).lower() for cell in np.unique(column.texts)}
    return cells <= {*YES, *NO, *UNKNOWN} and bool(cells & {*YES, *NO})


def labels_in(text: str) -> list[str]:
    """The labels in a cell: a;b, a|b or a,b; also as a list in brackets, with quotes around each."""
    plain = text.strip()
    if plain.startswith("[") and plain.endswith("]"):
        plain = plain[1:-1]
    return [part.strip().strip("'\"").strip() for part in SEPARATORS.split(plain) if part.strip().strip("'\"").strip()]


def split_named(text: str, where: str) -> str:
    """The split of a cell. Raises DataError for a word that is none."""
    found = SPLITS.get(text.strip().lower(), "")
    if text.strip() and not found:
        raise DataError(f"{where}: the split {text.strip()[:40]!r}; there is train, validation and test")
    return found


def rows_of(path: Path, places: Pictures, wanted: tuple[str, ...], findings: Findings) -> tuple[Roles, list[str], Iterator[Listed]]:
    """The roles of a table's columns, its labels, and its rows. Raises DataError."""
    table = read_table(path)
    roles = roles_of(table, places, wanted)
    if roles is None:
        raise DataError(
            f"{path}: has no column with names of files, or none with labels or 0 and 1; its columns: {', '.join(table)[:300]}"
        )
    if lacking := [name for name in wanted if name not in table]:
        raise DataError(f"{path}: no column {lacking[0]!r}; it has {', '.join(table)[:300]}")
    if roles.listed:
        counts = Counter(label for cell in table[roles.labels[0]].texts.tolist() for label in labels_in(str(cell)))
        return roles, sorted(counts), _rows(path, table, roles, places)
    if not wanted:
        findings.notes += [f"column {name!r}: {why}" for name, why in roles.left_out.items()]
    return roles, list(roles.labels), _rows(path, table, roles, places)


def _rows(path: Path, table: dict[str, Column], roles: Roles, places: Pictures) -> Iterator[Listed]:
    for i, name in enumerate(table[roles.file].texts.tolist()):
        where = f"{path}: row {i + 2}"
        split = split_named(str(table[roles.split].texts[i]), where) if roles.split else ""
        at = places.named(str(name), near=path.parent, prefer=split)
        if roles.listed:
            yield Listed(at, frozenset(labels_in(str(table[roles.labels[0]].texts[i]))), frozenset(), split)
            continue
        cells = {label: str(table[label].texts[i]).lower() for label in roles.labels}
        odd = next((label for label, cell in cells.items() if cell not in (*YES, *NO, *UNKNOWN)), None)
        if odd is not None:
            raise DataError(
                f"{where}, column {odd!r}: {cells[odd][:40]!r}; a label's column has 1, 0, or nothing where it is not known"
            )
        has = frozenset(label for label, cell in cells.items() if cell in YES)
        yield Listed(at, has, frozenset(label for label, cell in cells.items() if cell in UNKNOWN), split)
