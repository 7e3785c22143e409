"""Pictures with COCO's outlines as a data set of masks: polygons and run lengths become the number of each pixel's label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.annotations import coco
from edgeloop_pipeline.data.datasets.annotations.coco_outlines import OutlinedPicture, Overlap, painted, read_outlines
from edgeloop_pipeline.data.datasets.annotations.pictures import Findings
from edgeloop_pipeline.data.datasets.folders import Files
from edgeloop_pipeline.data.datasets.one_by_one import OneByOne
from edgeloop_pipeline.data.datasets.own_split import Item, Members, sides_of, split_by
from edgeloop_pipeline.data.masks import BACKGROUND
from edgeloop_pipeline.data.types import NAMES, Split, Splits

__all__ = ["CocoMasks"]


@dataclass(frozen=True)
class CocoMasks:
    """Pictures with outlines below `root`, as COCO JSON: polygons, or run lengths, compressed or not.

    `labels`: categories that count ((): all that have an outline); pixels of the others, and of none, are background. Of outlines
    that overlap, the `smaller` one is on top, or the `later` one in the file. Crowds, and things with a box alone, are not known
    (255). The data's own split counts (a JSON for each). What it lacks comes from train; without one, 70 % train, 15 % validate and
    15 % test, the same on every machine. Pictures that are equal byte by byte stay together. `group`: the part of a file's name
    before the first such character names who or what was taken; a group is never divided. `validation`, `test`: groups (or files,
    by their path below `root`) that belong there.
    """

    root: Path
    labels: tuple[str, ...] = ()
    overlap: Overlap = "smaller"
    group: str = ""
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @cached_property
    def _read(self) -> tuple[list[str], list[OutlinedPicture], Findings]:
        return read_outlines(self.root.resolve())

    @property
    def pictures(self) -> list[OutlinedPicture]:
        """What the folder holds. Raises DataError."""
        return self._read[1]

    @property
    def findings(self) -> Findings:
        return self._read[2]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The labels of pixels, the background first. Raises DataError where a wanted one is no category."""
        used = {label for picture in self.pictures for label in picture.labels}
        every = [name for name in self._read[0] if name in used]
        if lacking := [name for name in self.labels if name not in every and name != BACKGROUND]:
            raise DataError(f"{self.root}: no outline of {lacking[0]!r}; there are {', '.join(every)}")
        return (BACKGROUND, *(name for name in self.labels or every if name != BACKGROUND))

    def files(self) -> Sequence[Path]:
        return [*(picture.path for picture in self.pictures), *coco.files(self.root.resolve())]

    def load(self) -> Splits:
        """Pictures are read, and masks painted, on access. Raises DataError."""
        numbers, sides, made = {name: i for i, name in enumerate(self.names)}, self.sides(), {}
        for name in NAMES:
            chosen = [picture for picture, side in zip(self.pictures, sides, strict=True) if side == name]
            if not chosen:
                raise DataError(f"{self.root}: no pictures for {name}; add more")
            made[name] = Split(
                Files([picture.path for picture in chosen]),
                OneByOne(chosen, lambda picture: painted(picture, numbers, self.overlap)),
                np.array([self.unit(picture.path) for picture in chosen]),
                [self._name(picture.path) for picture in chosen],
            )
        return Splits(self.names, *made.values(), notes=tuple(f"data: {line}" for line in self.findings.lines()))

    def sides(self) -> list[str]:
        """The split of each picture. Raises DataError."""
        items = [Item(p.path, p.labels, self.unit(p.path), p.split) for p in self.pictures]
        return sides_of(self.root, items, self._members, self.findings)

    @property
    def _members(self) -> Members:
        return Members("picture", bool(self.group), self.validation, self.test)

    def split_by(self) -> str:
        """How pictures are divided, in words."""
        return split_by({picture.split for picture in self.pictures} - {""}, self._members)

    def unit(self, path: Path) -> str:
        """Who or what was taken: the beginning of the file's name, or the file itself."""
        return path.stem.split(self.group)[0] if self.group else self._name(path)

    def _name(self, path: Path) -> str:
        root = self.root.resolve()
        base = root if root.is_dir() else root.parent
        return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
