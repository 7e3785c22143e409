"""Recordings with several labels each as a data set: a list beside the files says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.readers import SOUND, read
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import NOT_KNOWN
from edgeloop_pipeline.data.datasets.folders import Files
from edgeloop_pipeline.data.datasets.label_lists.reading import read_list
from edgeloop_pipeline.data.datasets.label_lists.rows import LabelList, Listed
from edgeloop_pipeline.data.datasets.own_split import Item, Members, sides_of, split_by
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
        items = [Item(row.path, row.has, self.unit(row.path), row.split) for row in found.rows]
        return sides_of(self.root, items, self._members, found.findings)

    @property
    def _members(self) -> Members:
        return Members("recording", bool(self.group), self.validation, self.test)

    def split_by(self) -> str:
        """How recordings are divided, in words."""
        return split_by(self.listed.splits, self._members)

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
