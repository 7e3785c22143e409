"""Data sets in the layouts that people have: class folders of images, sound or sensor recordings, and tables with a label."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from edgeloop_agent.sources.readers import READERS, read
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data import Array, Split, Splits

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
SHARES = (0.7, 0.15)  # to train and to validate; the rest is the test set


@dataclass(frozen=True)
class Files(Sequence[Array]):
    """Recordings that are read when asked for, one at a time."""

    paths: list[Path]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, i: int) -> Array: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Array]: ...
    def __getitem__(self, i: int | slice) -> Array | Sequence[Array]:
        if isinstance(i, slice):
            return Files(self.paths[i])
        found = read(self.paths[i])
        if found.values is None:
            raise DataError(f"{self.paths[i]}: {found.refused}; repair or remove it")
        return found.values


@dataclass(frozen=True)
class ClassFolders:
    """`root/CLASS/…files`, or `root/{train,val,test}/CLASS/…files`; images, 16-bit WAV, CSV or .npy recordings.

    Without split folders, files are split by their name's digest: 70 % train, 15 % validate, 15 % test, the same on every
    machine. `group`: the part of a file's name up to the first such character is who or what was recorded, and a group is
    never divided.
    """

    root: Path
    group: str = ""

    def files(self) -> Sequence[Path]:
        return [path for _, _, path in self._found()]

    def load(self) -> Splits:
        found = list(self._found())
        labels = tuple(sorted({label for label, _, _ in found}))
        if len(labels) < 2:
            raise DataError(f"{self.root}: {len(labels)} classes with files in it; put each class's files in a folder of its name")
        made = {}
        for name in ("train", "validation", "test"):
            rows = [(label, path) for label, split, path in found if (split or self._split(path)) == name]
            if not rows:
                raise DataError(f"{self.root}: no files for {name}; add more, or folders train/, val/ and test/")
            paths = [path for _, path in rows]
            truth = np.array([labels.index(label) for label, _ in rows])
            made[name] = Split(Files(paths), truth, np.array([self._group(p) for p in paths]), [p.name for p in paths])
        return Splits(labels, **made)

    def _found(self) -> Iterator[tuple[str, str, Path]]:
        """Label, split ('' where the folders say none) and path of every file, in order."""
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; correct the path in data.py")
        parents = {p: SPLITS[p.name.lower()] for p in sorted(self.root.iterdir()) if p.is_dir() and p.name.lower() in SPLITS}
        for parent, split in (parents or {self.root: ""}).items():
            for folder in sorted(p for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")):
                for path in sorted(folder.rglob("*")):
                    if path.suffix.lower() in READERS and path.is_file():
                        yield folder.name, split, path

    def _group(self, path: Path) -> str:
        return path.stem.split(self.group)[0] if self.group else path.stem

    def _split(self, path: Path) -> str:
        return by_digest(self._group(path) if self.group else f"{path.parent.name}/{path.name}")


def by_digest(name: str, shares: tuple[float, float] = SHARES) -> str:
    """The split of a recording or group, from its name alone."""
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return "train" if share < shares[0] else "validation" if share < sum(shares) else "test"


@dataclass(frozen=True)
class NormalFolders(ClassFolders):
    """The same folders for anomaly detection: `normal` holds what is normal, every other folder what is not.

    Normal files are split as in ClassFolders, the others between validation and test; files in a train folder that are
    not normal are left out. Where there is no validation folder, its files come from the test folder.
    """

    normal: str = "normal"

    def load(self) -> Splits:
        found = [(int(label != self.normal), split, path) for label, split, path in self._found()]
        if {odd for odd, _, _ in found} != {0, 1}:
            raise DataError(f"{self.root}: needs a folder {self.normal!r} and at least one other, with files in both")
        given = {split for _, split, _ in found}
        made = {}
        for name in ("train", "validation", "test"):
            rows = [(odd, path) for odd, split, path in found if self._name(odd, split, path, given) == name]
            truth = np.array([odd for odd, _ in rows], dtype=np.int64)
            if 0 not in truth or (name != "train" and 1 not in truth):
                raise DataError(f"{self.root}: too few files for {name}; it needs {self.normal} ones and others")
            paths = [path for _, path in rows]
            made[name] = Split(Files(paths), truth, np.array([self._group(p) for p in paths]), [p.name for p in paths])
        return Splits((self.normal, "anomaly"), **made)

    def _name(self, odd: int, split: str, path: Path, given: set[str]) -> str:
        if split == "train" or split == "validation" or (split == "test" and "validation" in given):
            return "" if odd and split == "train" else split
        drawn = self._split(path)
        if odd or split == "test":  # halves of what training does not use
            return "validation" if by_digest(f"half/{path.name}", (0.5, 0.5)) == "train" else "test"
        return drawn


@dataclass(frozen=True)
class Table:
    """Rows of sensor values with a label: one CSV or Parquet file, or a folder of them.

    A recording is a run of rows with the same label (and the same `group`, who or what was recorded). With `group`,
    groups are split; else recordings, which share a person or device and so promise too much.
    """

    path: Path
    label: str
    channels: tuple[str, ...]
    group: str = ""

    def files(self) -> Sequence[Path]:
        return table_files(self.path)

    def load(self) -> Splits:
        recordings: list[tuple[str, str, Array]] = []
        for file in self.files():
            recordings += self._recordings(file)
        labels = tuple(sorted({label for label, _, _ in recordings}))
        made = {}
        for name in ("train", "validation", "test"):
            rows = [row for i, row in enumerate(recordings) if by_digest(row[1] if self.group else f"{row[1]}/{i}") == name]
            if not rows:
                raise DataError(f"{self.path}: no recordings for {name}; more groups or recordings are needed")
            truth = np.array([labels.index(label) for label, _, _ in rows])
            made[name] = Split([values for _, _, values in rows], truth, np.array([group for _, group, _ in rows]))
        return Splits(labels, **made)

    def _columns(self, file: Path) -> tuple[Array, Array, Array]:
        """Values (rows, channels), the label's column, and each row's group."""
        table = read_table(file)
        missing = [c for c in (self.label, *self.channels, *([self.group] if self.group else [])) if c not in table]
        if missing:
            raise DataError(f"{file}: no column {missing[0]!r}; it has {', '.join(table)}")
        try:
            values = np.stack([np.asarray(table[c], np.float64) for c in self.channels], axis=1)
        except ValueError as error:
            raise DataError(f"{file}: a channel holds something that is no number ({error})") from error
        groups = np.asarray(table[self.group]).astype(str) if self.group else np.full(len(values), file.stem)
        return values, np.asarray(table[self.label]), groups

    def _recordings(self, file: Path) -> list[tuple[str, str, Array]]:
        values, column, groups = self._columns(file)
        labels = column.astype(str)
        ends = np.flatnonzero((labels[1:] != labels[:-1]) | (groups[1:] != groups[:-1])) + 1
        return [(labels[a], groups[a], values[a:b]) for a, b in pairwise([0, *ends.tolist(), len(labels)])]


@dataclass(frozen=True)
class Values(Table):
    """Rows of sensor values with a quantity to estimate (`label`: its column): a sample is `length` rows, its label their mean.

    Samples overlap by half. With `group`, groups are split; else stretches of ten samples, which lie side by side and so
    promise too much.
    """

    length: int = 64

    def load(self) -> Splits:
        made: dict[str, list[tuple[str, Array, float]]] = {"train": [], "validation": [], "test": []}
        for file in self.files():
            values, labels, groups = self._columns(file)
            try:
                truth = np.asarray(labels, np.float64)
            except ValueError as error:
                raise DataError(f"{file}: column {self.label!r} holds something that is no number ({error})") from error
            ends = np.flatnonzero(groups[1:] != groups[:-1]) + 1
            for a, b in pairwise([0, *ends.tolist(), len(labels)]):
                for i, start in enumerate(range(a, b - self.length + 1, max(1, self.length // 2))):
                    name = groups[a] if self.group else f"{groups[a]}/{i // 10}"
                    rows = slice(start, start + self.length)
                    if np.isfinite(truth[rows]).all():
                        made[by_digest(name)].append((name, values[rows], float(truth[rows].mean())))
        for split, found in made.items():
            if not found:
                raise DataError(f"{self.path}: no recordings of {self.length} rows for {split}; more groups or rows are needed")
        return Splits(
            (self.label,), **{
                split: Split([v for _, v, _ in found], np.array([t for *_, t in found]), np.array([g for g, *_ in found]))
                for split, found in made.items()
            },
        )  # fmt: skip


def table_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix.lower() in (".csv", ".parquet"))
    if not found:
        raise DataError(f"{path}: no .csv or .parquet file; correct the path in data.py")
    return found


def read_table(file: Path) -> dict[str, Any]:
    """Column name → values. Numbers where every cell is one (an empty cell is NaN)."""
    if file.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise DataError(f"{file}: reading Parquet needs pyarrow: pip install 'edgeloop[tables]'") from error
        try:
            table = pyarrow.parquet.read_table(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not a Parquet file ({error})") from error
        return {name: table.column(name).to_numpy() for name in table.column_names}
    import csv

    with file.open(newline="", encoding="utf-8") as opened:
        rows = [row for row in csv.reader(opened) if row]
    if len(rows) < 2:
        raise DataError(f"{file}: no rows below a header line")
    ragged = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if ragged is not None:
        raise DataError(f"{file}: row {ragged + 1} has {len(rows[ragged])} columns, the header has {len(rows[0])}")
    return {name.strip(): _column([row[i] for row in rows[1:]]) for i, name in enumerate(rows[0])}


def _column(cells: list[str]) -> Any:
    try:
        return np.array([float(c) if c.strip() else np.nan for c in cells])
    except ValueError:
        return np.array(cells)
