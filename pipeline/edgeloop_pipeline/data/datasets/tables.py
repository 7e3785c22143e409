"""Tables: each row is a point in time; a run of rows with one label is a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.reading import Column, read_table, table_files
from edgeloop_pipeline.data.datasets.scanning import SPLITS
from edgeloop_pipeline.data.datasets.splitting import HELD, Wanted, check_given, divide, divide_values, plural
from edgeloop_pipeline.data.types import NAMES, Split, Splits

LONG_GAP = "rows where a channel misses more than {} points in a row"


@dataclass(frozen=True)
class Piece:
    """A recording of a table. `unit`: never divided between splits; `split`: '' if the file's name gives none."""

    label: str
    unit: str
    split: str
    values: Array
    truth: float = 0.0


@dataclass
class Cut:
    """A table in pieces, and the number of left-out rows by reason."""

    pieces: list[Piece] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Table:
    """Rows of sensor values with a label: one CSV or Parquet file, or a folder of them (train.csv, test.csv keep their splits).

    A recording is a run of rows with the same label (and the same `group`, who or what was recorded). Splits are quotas of each
    class, the same on every machine: of groups, with a `group`; otherwise of recordings, which share a person or device, so the
    accuracy is too optimistic; otherwise of adjacent stretches of `stretch` rows. `validation`, `test`: groups that
    belong there. Labels are text, as in the file. Rows without a label are left out, and rows where a channel
    misses more than `max_gap` points in a row (0: no such rows are left out).
    """

    path: Path
    label: str
    channels: tuple[str, ...]
    group: str = ""
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    stretch: int = 0
    max_gap: int = 0

    @property
    def unit_name(self) -> str:
        return self.group or ("stretch" if self.stretch else "recording")

    def files(self) -> Sequence[Path]:
        return table_files(self.path)

    def load(self) -> Splits:
        cut = self.cut()
        labels = tuple(sorted({piece.label for piece in cut.pieces}))
        truth = {label: i for i, label in enumerate(labels)}
        return self.made(cut.pieces, self.sides(cut.pieces), labels, [truth[piece.label] for piece in cut.pieces])

    def made(self, pieces: list[Piece], sides: list[str], labels: tuple[str, ...], truth: Sequence[float]) -> Splits:
        made = {}
        for name in NAMES:
            rows = [i for i, side in enumerate(sides) if side == name]
            if not rows:
                raise DataError(f"{self.path}: no recordings for {name}; more {plural(self.unit_name)} are needed")
            groups = np.array([pieces[i].unit for i in rows])
            made[name] = Split([pieces[i].values for i in rows], np.array([truth[i] for i in rows]), groups)
        return Splits(labels, *made.values(), channels=self.channels)

    def cut(self) -> Cut:
        """The recordings of every file. Raises DataError."""
        found = Cut()
        for file in self.files():
            self._cut_file(file, self.columns(file), found)
        if not found.pieces:
            raise DataError(f"{self.path}: no rows with a label; {dict(found.left_out)}")
        return found

    def columns(self, file: Path) -> dict[str, Column]:
        table = read_table(file)
        missing = [c for c in (self.label, *self.channels, *([self.group] if self.group else [])) if c not in table]
        if missing:
            raise DataError(f"{file}: no column {missing[0]!r}; it has {', '.join(table)[:300]}")
        for name in self.channels:
            odd = table[name].odd
            if len(odd):
                shown = table[name].texts[odd[0]]
                raise DataError(f"{file}: row {odd[0] + 2}, column {name!r}: {str(shown)[:40]!r} is not a number")
        return table

    def sides(self, pieces: list[Piece]) -> list[str]:
        """The split of each piece. Raises DataError."""
        labels, units = [piece.label for piece in pieces], [piece.unit for piece in pieces]
        return self._given_or(pieces, lambda rows, wanted: divide(
            [labels[i] for i in rows], [units[i] for i in rows], self.unit_name, wanted), check=True)  # fmt: skip

    def _given_or(self, pieces: list[Piece], draw: object, check: bool) -> list[str]:
        """The splits that the files' names give; `draw` gives the others."""
        sides = [piece.split for piece in pieces]
        given = set(sides) - {""}
        try:
            if given and check:
                check_given([piece.label for piece in pieces], sides)
            held = tuple(name for name in HELD if name not in given)
            rows = [i for i, side in enumerate(sides) if side in ("", "train")]
            if held and rows:
                named = Wanted(held, *(getattr(self, name) if name in held else () for name in HELD))
                for i, side in zip(rows, draw(rows, named), strict=True):  # type: ignore[operator]
                    sides[i] = side
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error
        return sides

    def _split_of(self, file: Path) -> str:
        """The split by the file's name, if the folder has a file called train."""
        names = {p.stem.lower() for p in self.files()} if self.path.is_dir() else set()
        return SPLITS.get(file.stem.lower(), "") if names and names <= set(SPLITS) and names & {"train", "training"} else ""

    def _groups(self, file: Path, table: dict[str, Column], rows: int) -> Array:
        return table[self.group].texts if self.group else np.full(rows, file.stem)

    def _cut_file(self, file: Path, table: dict[str, Column], found: Cut) -> None:
        values = np.stack([table[c].numbers for c in self.channels], axis=1)
        column, groups, split = table[self.label], self._groups(file, table, len(values)), self._split_of(file)
        usable = self._usable(table, values, found)
        labels = column.texts
        ends = np.flatnonzero((labels[1:] != labels[:-1]) | (groups[1:] != groups[:-1]) | (usable[1:] != usable[:-1])) + 1
        for a, b in pairwise([0, *ends.tolist(), len(labels)]):
            if not usable[a]:
                continue
            for start, end in self._stretches(a, b):
                unit = str(groups[a]) if self.group else f"{file.stem}/{start + 2}"  # the row where it begins, as editors count
                found.pieces.append(Piece(str(labels[a]), unit, split, values[start:end]))

    def _usable(self, table: dict[str, Column], values: Array, found: Cut) -> Array:
        """The rows that can be in a recording; the others are counted in `found`."""
        bad = self._unlabelled(table[self.label]).copy()
        found.left_out[f"rows without a {self.label}"] += int(bad.sum())
        if self.group:
            nameless = table[self.group].nameless & ~bad
            found.left_out[f"rows without a {self.group}"] += int(nameless.sum())
            bad |= nameless
        if self.max_gap:
            gaps = _long_gaps(values, self.max_gap) & ~bad
            found.left_out[LONG_GAP.format(self.max_gap)] += int(gaps.sum())
            bad |= gaps
        return np.asarray(~bad)

    def _unlabelled(self, column: Column) -> Array:
        return column.nameless

    def _stretches(self, a: int, b: int) -> list[tuple[int, int]]:
        """Rows a to b, or their stretches; a short rest belongs to the last stretch."""
        if not self.stretch:
            return [(a, b)]
        count = max(1, (b - a) // self.stretch)
        return [(a + i * self.stretch, b if i == count - 1 else a + (i + 1) * self.stretch) for i in range(count)]


def _long_gaps(values: Array, most: int) -> Array:
    """The rows in a run of missing values longer than `most`, in any channel."""
    found = np.zeros(len(values), bool)
    for channel in (~np.isfinite(values)).T:
        edges = np.diff(np.concatenate([[0], channel.astype(np.int8), [0]]))
        for start, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
            if end - start > most:
                found[start:end] = True
    return found


@dataclass(frozen=True)
class Values(Table):
    """Rows of sensor values with a quantity to estimate (`label`: its column): a sample is `length` rows.

    The label of a sample is the quantity's mean, or with `at="last"` its value in the last row (for forecasts, and for quantities
    that change within a sample). Samples overlap by half. With `group`, groups are split; otherwise (or with a `stretch`) adjacent
    stretches of ten samples, so the metric is too optimistic.
    """

    length: int = 64
    at: Literal["mean", "last"] = "mean"

    @property
    def unit_name(self) -> str:
        return self.group or "stretch"

    def load(self) -> Splits:
        pieces = self.cut().pieces
        return self.made(pieces, self.sides(pieces), (self.label,), [piece.truth for piece in pieces])

    def sides(self, pieces: list[Piece]) -> list[str]:
        return self._given_or(pieces, lambda rows, wanted: divide_values(
            [pieces[i].truth for i in rows], [pieces[i].unit for i in rows], self.unit_name, wanted), check=False)  # fmt: skip

    def _unlabelled(self, column: Column) -> Array:
        return column.missing

    def columns(self, file: Path) -> dict[str, Column]:
        table = super().columns(file)
        odd = table[self.label].odd
        if len(odd):
            shown = table[self.label].texts[odd[0]]
            raise DataError(f"{file}: row {odd[0] + 2}, column {self.label!r} has a value that is not a number ({str(shown)!r})")
        return table

    def _cut_file(self, file: Path, table: dict[str, Column], found: Cut) -> None:
        values = np.stack([table[c].numbers for c in self.channels], axis=1)
        groups, truth, split = self._groups(file, table, len(values)), table[self.label].numbers, self._split_of(file)
        usable = self._usable(table, values, found)
        ends = np.flatnonzero((groups[1:] != groups[:-1]) | (usable[1:] != usable[:-1])) + 1
        for a, b in pairwise([0, *ends.tolist(), len(truth)]):
            if not usable[a]:
                continue
            if b - a < self.length:
                found.left_out[f"rows in runs shorter than {self.length}"] += b - a
            for i, start in enumerate(range(a, b - self.length + 1, max(1, self.length // 2))):
                unit = f"{file.stem}/{start - i % 10 * max(1, self.length // 2) + 2}"
                unit = f"{groups[a]}/{unit}" if self.stretch else str(groups[a]) if self.group else unit
                rows = slice(start, start + self.length)
                value = truth[rows].mean() if self.at == "mean" else truth[rows][-1]
                found.pieces.append(Piece("", unit, split, values[rows], float(value)))
