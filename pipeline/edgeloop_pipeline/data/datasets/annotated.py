"""Pictures with boxes as a data set: the official split where there is one, else by group or by file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.boxes import VALUES
from edgeloop_pipeline.data.datasets.annotations.formats import FORMATS, read_annotations
from edgeloop_pipeline.data.datasets.annotations.pictures import AnnotatedPicture, Annotations
from edgeloop_pipeline.data.datasets.folders import Files
from edgeloop_pipeline.data.datasets.own_split import Item, Members, sides_of, split_by
from edgeloop_pipeline.data.datasets.splitting import HELD
from edgeloop_pipeline.data.types import NAMES, Split, Splits

__all__ = ["PictureBoxes"]


@dataclass(frozen=True)
class PictureBoxes:
    """Pictures with boxes below `root`: COCO JSON, YOLO text, Pascal VOC XML or CSV (`format`, where there are several).

    The data's own split counts: ImageSets of VOC, a JSON or folders for each split, a data.yaml, a column `split`. What it lacks
    comes from train; without one, 70 % train, 15 % validate and 15 % test, the same on every machine. Pictures that are equal byte
    by byte stay together. `group`: the part of a file's name before the first such character names who or what was taken; a group
    is never divided. `validation`, `test`: groups (or files, by their path below `root`) that belong there.
    """

    root: Path
    format: str = ""
    group: str = ""
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @cached_property
    def annotations(self) -> Annotations:
        """What the folder holds. Raises DataError."""
        return read_annotations(self.root, self.format)

    def files(self) -> Sequence[Path]:
        root = self.root.resolve()
        found = self.annotations
        return [*(picture.path for picture in found.pictures), *FORMATS[found.format].files(root), *self._lists(root)]

    def _lists(self, root: Path) -> list[Path]:
        """Files that name classes or splits."""
        if root.is_file():
            return []
        ours = FORMATS[self.annotations.format].files(root)
        found = [p for p in root.rglob("*") if p.suffix.lower() in (".txt", ".yaml", ".yml") and p.is_file()]
        known = set(ours)
        return sorted(p for p in found if p not in known and not any(part.startswith(".") for part in p.relative_to(root).parts))

    def load(self) -> Splits:
        """Pictures are read on access. Raises DataError."""
        found = self.annotations
        sides = self.sides(found)
        at = {name: i for i, name in enumerate(found.labels)}
        made = {}
        for name in NAMES:
            rows = [i for i, side in enumerate(sides) if side == name]
            if not rows:
                raise DataError(f"{self.root}: no pictures for {name}; add more")
            chosen = [found.pictures[i] for i in rows]
            made[name] = Split(
                Files([picture.path for picture in chosen]),
                [self._rows(p, at) for p in chosen],
                np.array([self.unit(picture) for picture in chosen]),
                [self._name(picture) for picture in chosen],
            )
        return Splits(found.labels, *made.values(), notes=tuple(f"data: {line}" for line in found.findings.lines()))

    def _rows(self, picture: AnnotatedPicture, at: Mapping[str, int]) -> Array:
        """The boxes (n, 5) of a picture: the number of the label, and edges."""
        return np.array([[at[box.label], *box.edges] for box in picture.boxes], np.float32).reshape(-1, VALUES)

    def sides(self, found: Annotations) -> list[str]:
        """The split of each picture. Raises DataError, also where training has no box of a class."""
        items = [Item(p.path, [box.label for box in p.boxes], self.unit(p), p.split) for p in found.pictures]
        sides = sides_of(self.root, items, self._members, found.findings)
        self._check(found, sides)
        return sides

    @property
    def _members(self) -> Members:
        return Members("picture", bool(self.group), self.validation, self.test)

    def _check(self, found: Annotations, sides: list[str]) -> None:
        """Every class must be learnt; a class that a held split lacks is said. Raises DataError."""
        counts = {name: Counter[str]() for name in NAMES}
        for picture, side in zip(found.pictures, sides, strict=True):
            if side:
                counts[side].update(box.label for box in picture.boxes)
        unlearnt = [label for label in found.labels if not counts["train"][label]]
        if unlearnt:
            raise DataError(
                f"{self.root}: train has no box of {', '.join(unlearnt)}; move pictures with some to train, or leave the class out"
            )
        for name in HELD:
            if lacking := [label for label in found.labels if not counts[name][label]]:
                found.findings.notes.append(f"{name} has no box of {', '.join(lacking)}: they do not count there")

    def unit(self, picture: AnnotatedPicture) -> str:
        """Who or what was taken: the beginning of the file's name, or the file itself."""
        return picture.path.stem.split(self.group)[0] if self.group else self._name(picture)

    def _name(self, picture: AnnotatedPicture) -> str:
        root = self.annotations.root
        base = root if root.is_dir() else root.parent
        return picture.path.relative_to(base).as_posix() if picture.path.is_relative_to(base) else picture.path.as_posix()

    def split_by(self) -> str:
        """How pictures are divided, in words."""
        return split_by(self.annotations.splits, self._members)
