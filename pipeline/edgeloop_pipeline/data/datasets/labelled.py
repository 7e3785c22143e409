"""Recordings with several labels each as a data set: a list beside the files says which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.readers import SOUND, read
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import NOT_KNOWN
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.data.datasets.folders import Files
from edgeloop_pipeline.data.datasets.label_lists.reading import read_list
from edgeloop_pipeline.data.datasets.label_lists.rows import FEWEST, LabelList, Listed
from edgeloop_pipeline.data.datasets.splitting import HELD, SHARE, Wanted, divide, plural
from edgeloop_pipeline.data.types import NAMES, Split, Splits

__all__ = ["LabelledFiles"]


@dataclass(frozen=True)
class LabelledFiles:
    """Pictures, sound or series below `root` with any number of labels each, which a list names.

    The list is a table (a file's name in each row, and its labels as `a;b` in one column or as a column of 0 and 1 for each),
    JSON lines (`{"file": …, "labels": […]}`), or COCO with categories of pictures; without one, the labels of a picture are those
    of its boxes. `table`: the list's file, where there are several; `labels`: of columns of 0 and 1, those that count.
    The data's own split counts: a column `split`, folders train/, val/ and test/, or a list for each. What it lacks comes from
    train; without one, 70 % train, 15 % validate and 15 % test, the same on every machine. Files that are equal byte by byte stay
    together.
    `group`: the part of a file's name before the first such character names who or what was recorded; a group is never divided.
    `validation`, `test`: groups (or files, by their path below `root`) that belong there. `kind`: pictures, sound or series, where
    there are several. `channels`: columns of tables with a header. `rate_hz`: of sound; other rates are resampled to it.
    """

    root: Path
    table: str = ""
    labels: tuple[str, ...] = ()
    group: str = ""
    kind: str = ""
    channels: tuple[str, ...] = ()
    rate_hz: int = 0
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @cached_property
    def listed(self) -> LabelList:
        """What the list says. Raises DataError."""
        return read_list(self.root, self.table, self.labels, self.kind)

    def files(self) -> Sequence[Path]:
        return [*(row.path for row in self.listed.rows), *self.listed.files]

    def load(self) -> Splits:
        """Files are read on access. Raises DataError."""
        found = self.listed
        sides, rate, made = self.sides(found), self._rate(found), {}
        for name in NAMES:
            rows = [row for row, side in zip(found.rows, sides, strict=True) if side == name]
            if not rows:
                raise DataError(f"{self.root}: no recordings for {name}; add more")
            made[name] = Split(
                Files([row.path for row in rows], self.channels, rate, strict=not self.rate_hz),
                _numbers(rows, found.labels),
                np.array([self.unit(row.path) for row in rows]),
                [self._name(row.path) for row in rows],
            )
        notes = tuple(f"data: {line}" for line in found.findings.lines())
        return Splits(found.labels, *made.values(), channels=self.channels, rate_hz=rate, notes=notes)

    def sides(self, found: LabelList) -> list[str]:
        """The split of each recording. Raises DataError."""
        given, sides = found.splits, [row.split for row in found.rows]
        if given and "train" not in given:
            raise DataError(f"{self.root}: has recordings for {' and '.join(sorted(given))} and none for train; add them")
        held = tuple(name for name in HELD if name not in given)
        if given and any(getattr(self, name) and name not in held for name in HELD):
            raise DataError("data.py names validation or test, and the data have that split too; leave out one of the two")
        if given and (alone := sides.count("")):
            first = next(row.path.name for row in found.rows if not row.split)
            found.findings.add("recordings in no split, left out", first, alone)
        rows = [i for i, side in enumerate(sides) if side == ("train" if given else "")]
        if held:
            wanted = Wanted(held, *(getattr(self, name) if name in held else () for name in HELD))
            for i, side in zip(rows, self._drawn([found.rows[i] for i in rows], wanted), strict=True):
                sides[i] = side
        return sides

    def _drawn(self, rows: list[Listed], wanted: Wanted) -> list[str]:
        """A split for each recording: stratified by its rarest label; each label is learnt; equal files and groups stay whole."""
        units = [self.unit(row.path) for row in rows]
        if not self.group:
            same: dict[str, str] = {}
            units = [same.setdefault(sha256(row.path), unit) for row, unit in zip(rows, units, strict=True)]
        counts = Counter(label for row in rows for label in row.has)
        rarest: dict[str, str] = {}
        for unit, row in zip(units, rows, strict=True):
            best = min(row.has, key=lambda label: (counts[label], label), default="")
            before = rarest.setdefault(unit, best)
            if best and (not before or counts[best] < counts[before]):
                rarest[unit] = best
        sizes = Counter(rarest.values())
        most = sizes.most_common(1)[0][0]
        strata = [most if sizes[rarest[unit]] < FEWEST else rarest[unit] for unit in units]
        sides = dict(zip(units, divide(strata, units, self.unit_name, wanted), strict=True))
        named = {*wanted.validation, *wanted.test}
        for label in counts:  # a label in few recordings may have come to the held splits alone
            mine = [unit for unit, row in zip(units, rows, strict=True) if label in row.has]
            if all(sides[unit] != "train" for unit in mine) and (free := [unit for unit in mine if unit not in named]):
                sides[free[0]] = "train"
        return [sides[unit] for unit in units]

    @property
    def unit_name(self) -> str:
        return "group" if self.group else "recording"

    def split_by(self) -> str:
        """How recordings are divided, in words."""
        given = self.listed.splits
        if not given:
            return f"{1 - 2 * SHARE:.0%} / {SHARE:.0%} / {SHARE:.0%} of {plural(self.unit_name)}"
        lacking = [name for name in HELD if name not in given]
        return "the data's own split" + (f"; {' and '.join(lacking)} from train" if lacking else "")

    def unit(self, path: Path) -> str:
        """Who or what was recorded: the beginning of the file's name, or the file itself."""
        return path.stem.split(self.group)[0] if self.group else self._name(path)

    def _name(self, path: Path) -> str:
        root = self.listed.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()

    def _rate(self, found: LabelList) -> int:
        if self.rate_hz or found.kind != "sound":
            return self.rate_hz
        first = next((row.path for row in found.rows if row.path.suffix.lower() in SOUND), None)
        return (read(first).rate_hz or 0) if first is not None else 0


def _numbers(rows: Sequence[Listed], labels: tuple[str, ...]) -> Array:
    """(N, labels) uint8: 1, 0, or 255 where nobody knows."""
    made = np.array([[label in row.has for label in labels] for row in rows], np.uint8)
    made[np.array([[label in row.unknown for label in labels] for row in rows])] = NOT_KNOWN
    return made
