"""Recordings that nobody labelled: every readable file of a folder, or the rows of one array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from edgeloop_agent.sources.readers import READERS, SOUND, read
from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.folders import Files
from edgeloop_pipeline.data.datasets.input_rows import TABLES, InputRows, input_rows
from edgeloop_pipeline.data.datasets.named_arrays import Named, NamedFiles, digest_of, named_rows
from edgeloop_pipeline.data.datasets.scanning import is_hidden
from edgeloop_pipeline.data.types import Split, Splits

__all__ = ["ARRAYS", "MIN_RECORDINGS", "Recordings", "sides_of"]

MIN_RECORDINGS = 8
SHARES = (0.5, 0.75)  # the first half calibrates, the third quarter chooses, the last one tests
ARRAYS = (".npy", ".npz")
BLOCK = 1 << 20


@dataclass(frozen=True)
class Recordings:
    """Recordings without labels, for a model that is trained already: half calibrate, a quarter choose, a quarter test.

    `root`: a folder of pictures, sound, tables or arrays, in any subfolders; or one .npy or .npz file with samples along the first
    axis. `sample`: the shape of one sample in such a file. `labels`: names of the model's classes; `labelled`: the files' folders
    are named after them. `group`: the part of a file's name before the first such character names who or what was recorded; a group
    is never divided. `inputs`: of a model with several; each recording is a .npz file with an array for each, or a row of those of
    one file; or `root` is a .csv, .tsv or .jsonl file with a column for each. `texts`: which of them are texts. `label_column`: of
    such a table. Of more than `most` recordings, evenly spaced ones are used. Equal files count once.
    """

    root: Path
    sample: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    labelled: bool = False
    group: str = ""
    most: int = 1024
    inputs: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    label_column: str = ""

    def files(self) -> Sequence[Path]:
        return [self.root, *self.rows.files()] if self.is_table else self._found[0]

    @cached_property
    def _found(self) -> tuple[list[Path], int]:
        """The distinct files in order, and the number of equal ones that are left out. Raises DataError."""
        if not self.root.exists():
            raise DataError(f"{self.root}: no such file or folder; correct the path")
        if self.root.is_file():
            return [self.root], 0
        inside = (p for p in self.root.rglob("*") if p.suffix.lower() in (*READERS, ".npz") and p.is_file())
        seen: dict[str, Path] = {}
        paths = sorted(p for p in inside if not any(map(is_hidden, p.relative_to(self.root).parts)))
        for path in paths:
            seen.setdefault(_digest(path), path)
        if not seen:
            raise DataError(f"{self.root}: holds no picture, sound, table or array that edgeloop reads")
        kinds = {_kind(path) for path in seen.values()}
        if len(kinds) > 1:
            raise DataError(f"{self.root}: holds {' and '.join(sorted(kinds))}; give a folder with one kind of files")
        order = [seen[digest] for digest in sorted(seen)]  # by content: the same on every machine, and no order of taking
        return [order[i] for i in evenly_spaced_rows(len(order), self.most)], len(paths) - len(seen)

    @property
    def left_out(self) -> int:
        """The number of files that are equal to another one."""
        return self._found[1]

    def load(self) -> Splits:
        files = list(self.files())
        if self.is_table:
            return self._table()
        rows = self._rows(files[0]) if len(files) == 1 else None
        items: Sequence[Any] = _Rows(rows) if rows is not None else self._files(files)
        names = [f"row {row.number}" for row in rows] if rows is not None else [str(p.relative_to(self.root)) for p in files]
        self._enough(len(items))
        units = [Path(name).name.split(self.group)[0] if self.group else name for name in names]
        side = dict(zip(dict.fromkeys(units), sides_of(len(set(units))), strict=True))
        truth = [self._label(path) for path in files] if self.labelled and rows is None else [0] * len(items)
        made = []
        for number in range(3):
            chosen = [i for i, unit in enumerate(units) if side[unit] == number]
            if not chosen:
                raise DataError(f"{self.root}: {len(side)} groups cannot be divided into three; give more, or leave `group` out")
            picked: Sequence[Any] = self._files([files[i] for i in chosen]) if rows is None else _Rows([rows[i] for i in chosen])
            labels, groups = np.array([truth[i] for i in chosen]), np.array([units[i] for i in chosen])
            made.append(Split(picked, labels, groups, [names[i] for i in chosen]))
        return Splits(self.labels or ("answer",), *made, rate_hz=self._rate(files))

    @property
    def is_table(self) -> bool:
        """Whether each row of a table is a sample of a model with several inputs."""
        return bool(self.inputs) and self.root.is_file() and self.root.suffix.lower() in TABLES

    @cached_property
    def rows(self) -> InputRows:
        """Of such a table, in order, at most `most`. Raises DataError for what cannot be read."""
        found = input_rows(self.root, {name: name in self.texts for name in self.inputs})
        return found.of(evenly_spaced_rows(len(found), self.most).tolist())

    def named(self) -> Iterator[tuple[str, Named]]:
        """Where each recording of a model with several inputs comes from, and the recording."""
        if self.is_table:
            yield from ((f"{self.root}, {row.name}", self.rows[i]) for i, row in enumerate(self.rows.rows))
            return
        files = list(self.files())
        rows = self._rows(files[0]) if len(files) == 1 else None
        if rows is not None:
            yield from ((f"{self.root}, row {row.number}", row.values) for row in rows if isinstance(row.values, Mapping))
        else:
            yield from zip(map(str, files), NamedFiles(files), strict=True)

    def _table(self) -> Splits:
        self._enough(len(self.rows))
        rows = self.rows.of(np.random.default_rng(0).permutation(len(self.rows)).tolist())  # tables are often sorted
        side, names = np.array(sides_of(len(rows))), np.array([row.name for row in rows.rows])
        labels = rows.labels(self.label_column) if self.labelled else []
        truth = np.array([self._number(label, f"{self.root}, {names[i]}") for i, label in enumerate(labels)] or [0] * len(rows))
        made = []
        for number in range(3):
            of = np.flatnonzero(side == number)
            made.append(Split(rows.of(of.tolist()), truth[of], names[of], names[of].tolist()))
        return Splits(self.labels or ("answer",), *made)

    def _number(self, label: str, where: str) -> int:
        if label in self.labels:
            return self.labels.index(label)
        if label.isdecimal() and int(label) < len(self.labels):
            return int(label)
        raise DataError(f"{where}: its label {label!r} is none of the model's; correct it, or leave labels out")

    def _enough(self, count: int) -> None:
        if count < MIN_RECORDINGS:
            raise DataError(f"{self.root}: {count} different recordings; at least {MIN_RECORDINGS} are needed, and 200 are good")

    def _files(self, files: list[Path]) -> Sequence[Any]:
        return NamedFiles(files) if self.inputs else Files(files, (), self._rate(files), strict=True)

    def _rate(self, files: list[Path]) -> int:
        return (read(files[0]).rate_hz or 0) if files[0].suffix.lower() in SOUND else 0

    def _label(self, path: Path) -> int:
        if path.parent.name not in self.labels:
            raise DataError(f"{path}: its folder {path.parent.name!r} is none of the model's labels; rename it, or move it away")
        return self.labels.index(path.parent.name)

    def _rows(self, file: Path) -> list[_Row] | None:
        """The distinct samples along the first axis of an array file; None for a file that is one recording."""
        if file.suffix.lower() not in ARRAYS:
            return None
        found = read(file)
        if self.inputs:
            if found.inputs is None:
                raise DataError(f"{file}: {found.refused or 'has one array; the model has several inputs'}")
            return self._some({digest_of(row): _Row(i, row) for i, row in enumerate(named_rows(file, found.inputs))})
        if found.values is None:
            raise DataError(f"{file}: {found.refused or 'has several arrays; give a file with one'}")
        if found.values.ndim < 2 or (self.sample and found.values.shape[1:] != self.sample):
            wanted = list(self.sample) or "two axes or more"
            raise DataError(f"{file}: has shape {list(found.values.shape)}; the first axis counts samples, each of shape {wanted}")
        if found.values.dtype.kind not in "fiub" or not np.isfinite(found.values).all():
            raise DataError(f"{file}: has values that are no finite numbers; repair or remove them")
        rows = {hashlib.sha256(row.tobytes()).hexdigest(): _Row(i, row) for i, row in enumerate(_plain(found.values))}
        return self._some(rows)

    def _some(self, rows: dict[str, _Row]) -> list[_Row]:
        """In an order that says nothing of how they were taken; not more than `most`."""
        ordered = [rows[digest] for digest in sorted(rows)]
        return [ordered[i] for i in evenly_spaced_rows(len(ordered), self.most)]


def _plain(values: Array) -> Array:
    """In a type that a model takes."""
    return values if values.dtype in (np.uint8, np.int16, np.float32) else values.astype(np.float32)


@dataclass(frozen=True)
class _Row:
    number: int
    values: Array | Named


class _Rows(Sequence[Any]):
    """Samples of one array file, by input where a model has several."""

    def __init__(self, rows: list[_Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, i: int) -> Any: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Any]: ...
    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return _Rows(self._rows[i])
        values = self._rows[i].values
        return values[None] if isinstance(values, np.ndarray) and values.ndim == 1 else values  # one place with many channels


def sides_of(count: int) -> list[int]:
    """0 (calibrates), 1 (chooses) or 2 (tests) for each of `count` units in order; each has at least one, where there are three."""
    places = (np.arange(count) + 0.5) / max(count, 1)
    sides: list[int] = np.searchsorted(SHARES, places).tolist()
    return sides


def _kind(path: Path) -> str:
    ending = path.suffix.lower()
    return "sound" if ending in SOUND else "arrays" if ending in ARRAYS else "tables" if ending in (".csv", ".tsv") else "pictures"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; repair or remove it") from error
    return digest.hexdigest()
