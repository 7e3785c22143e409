"""Pictures with masks as a data set: `images/` and `masks/` beside each other, a mask for each picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeloop_agent.sources.pictures import MAX_PIXELS
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.data.datasets.folders import Files
from edgeloop_pipeline.data.datasets.one_by_one import OneByOne
from edgeloop_pipeline.data.datasets.scanning import SPLITS, kind_of
from edgeloop_pipeline.data.datasets.splitting import HELD, Wanted, divide
from edgeloop_pipeline.data.masks import BACKGROUND
from edgeloop_pipeline.data.types import NAMES, Split, Splits

__all__ = ["PictureMasks", "read_mask", "stored_values"]

Meaning = Literal["numbers", "white", "instances"]
ENDINGS = (".png", ".tif", ".tiff", ".bmp")  # that keep numbers as they are
WHOLE = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I;16N", "I")
SUFFIX = "_mask"
WHITE = 255
LIST = "split.csv"
MAX_NAMED = 3


def stored_values(path: Path) -> Array:
    """The numbers in a mask's file, (height, width). Raises DataError that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.size[0] * image.size[1] > MAX_PIXELS:
                raise DataError(f"{path}: more than {MAX_PIXELS:,} pixels; make it smaller")
            if image.mode not in WHOLE:
                raise DataError(
                    f"{path}: a mask of the kind {image.mode}; save one number for each pixel, as grey or with a palette"
                )
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: cannot be read as a mask ({type(error).__name__}: {error}); repair or remove it") from error
    return values


def read_mask(path: Path, labels: int, meaning: Meaning) -> Array:
    """The numbers of a mask's labels, (height, width) uint8; 255 is unknown. Raises DataError that names the file.

    `meaning` of the stored values: "numbers" of labels, "white" (0 and 255: labels 0 and 1), or "instances" (above 0: label 1).
    """
    values = stored_values(path)
    if meaning == "instances" or values.dtype == bool:
        return (values > 0).astype(np.uint8)
    wrong = values[(values != 0) & (values != WHITE)] if meaning == "white" else values[(values >= labels) & (values != NOWHERE)]
    if len(wrong):
        known = "0 and 255" if meaning == "white" else f"0 to {labels - 1}, and {NOWHERE} for unknown"
        raise DataError(f"{path}: the value {int(wrong[0])}; masks of {meaning} have {known}: correct it, or masks= in data.py")
    return (values == WHITE).astype(np.uint8) if meaning == "white" else values.astype(np.uint8)


@dataclass(frozen=True)
class PictureMasks:
    """`root/images/…` and `root/masks/…`: a mask of the same size for each picture, with its name, or its name and `_mask`.

    `labels`: names of the numbers in masks, from 0 on. A device answers no mask for a label called background. `masks`: what values
    mean: "numbers", "white" (0 and 255), or "instances" (every value above 0 is label 1).
    Folders train/, val/ and test/ below images/, or a table `split.csv` (columns image, split), are the data's own split; without
    one, 70 % train, 15 % validate and 15 % test, the same on every machine. Pictures that are equal byte by byte stay together.
    `group`: the part of a file's name before the first such character names who or what was taken; a group is never divided.
    `validation`, `test`: groups (or files, by their path below `images`) that belong there.
    """

    root: Path
    labels: tuple[str, ...] = (BACKGROUND, "object")
    masks: Meaning = "numbers"
    group: str = ""
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @cached_property
    def pairs(self) -> list[tuple[Path, Path]]:
        """Each picture with its mask. Raises DataError for one without the other."""
        pictures, masks = self.root / "images", self.root / "masks"
        for folder in (pictures, masks):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder; put pictures in images/ and masks of the same names in masks/")
        by_stem: dict[str, Path] = {}
        for path in sorted(p for p in masks.rglob("*") if p.is_file() and not p.name.startswith(".")):
            if path.suffix.lower() not in ENDINGS:
                raise DataError(f"{path}: a mask must be a file that keeps numbers: {', '.join(ENDINGS)}")
            stem = path.relative_to(masks).with_suffix("").as_posix().removesuffix(SUFFIX)
            if stem in by_stem:
                raise DataError(f"{path}: {by_stem[stem].name} is a mask of the same picture; leave out one of them")
            by_stem[stem] = path
        found = []
        for path in sorted(p for p in pictures.rglob("*") if p.is_file() and kind_of(p) == "pictures" and p.name[0] != "."):
            found.append((path, by_stem.pop(path.relative_to(pictures).with_suffix("").as_posix(), None)))
        alone = [path.name for path, mask in found if mask is None]
        if alone or by_stem or not found:
            what = f"pictures without a mask: {_some(alone)}" if alone else f"masks without a picture: {_some(list(by_stem))}"
            raise DataError(f"{self.root}: {what if alone or by_stem else 'no pictures'}; add what is missing")
        return [(path, mask) for path, mask in found if mask is not None]

    def files(self) -> Sequence[Path]:
        table = self.root / LIST
        return [*(path for pair in self.pairs for path in pair), *([table] if table.is_file() else [])]

    def load(self) -> Splits:
        """Pictures and masks are read on access. Raises DataError."""
        made, sides = {}, self.sides()
        for name in NAMES:
            chosen = [pair for pair, side in zip(self.pairs, sides, strict=True) if side == name]
            if not chosen:
                raise DataError(f"{self.root}: no pictures for {name}; add more")
            made[name] = Split(
                Files([picture for picture, _ in chosen]),
                OneByOne([mask for _, mask in chosen], lambda path: read_mask(path, len(self.labels), self.masks)),
                np.array([self.unit(picture) for picture, _ in chosen]),
                [self._name(picture) for picture, _ in chosen],
            )
        return Splits(self.labels, *made.values())

    def sides(self) -> list[str]:
        """The split of each picture. Raises DataError."""
        pictures = [picture for picture, _ in self.pairs]
        sides: list[str] = self._listed(pictures) or [SPLITS.get(self._name(p).split("/")[0].lower(), "") for p in pictures]
        given = {side for side in sides if side}
        if given and ("train" not in given or "" in sides):
            lost = next((p.name for p, side in zip(pictures, sides, strict=True) if not side), "")
            raise DataError(
                f"{self.root}: {f'{lost} is in no split' if lost else 'no pictures for train'}; correct the data's split"
            )
        held = tuple(name for name in HELD if name not in given)
        if given and any(getattr(self, name) and name not in held for name in HELD):
            raise DataError("data.py names validation or test, and the data have that split too; leave out one of the two")
        rows = [i for i, side in enumerate(sides) if side in ("", "train")]
        if held:
            wanted = Wanted(held, *(getattr(self, name) if name in held else () for name in HELD))
            for i, side in zip(rows, self._drawn([pictures[i] for i in rows], wanted), strict=True):
                sides[i] = side
        return sides

    def _listed(self, pictures: list[Path]) -> list[str]:
        """The splits of the table; [] without one."""
        table = self.root / LIST
        if not table.is_file():
            return []
        try:
            with table.open(encoding="utf-8", newline="") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            named = {Path(row["image"]).stem: row["split"].strip().lower() for row in rows}
        except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{table}: no table with the columns image and split ({type(error).__name__}: {error})") from error
        if odd := sorted(set(named.values()) - set(SPLITS)):
            raise DataError(f"{table}: the split {odd[0]!r}; there is train, validation and test")
        return [SPLITS.get(named.get(path.stem, ""), "") for path in pictures]

    def _drawn(self, pictures: list[Path], wanted: Wanted) -> list[str]:
        units = [self.unit(picture) for picture in pictures]
        if not self.group:
            same: dict[str, str] = {}
            units = [same.setdefault(sha256(picture), unit) for picture, unit in zip(pictures, units, strict=True)]
        return divide(["picture"] * len(units), units, "group" if self.group else "picture", wanted)

    def unit(self, picture: Path) -> str:
        """Who or what was taken: the beginning of the file's name, or the file itself."""
        return picture.stem.split(self.group)[0] if self.group else self._name(picture)

    def _name(self, picture: Path) -> str:
        return picture.relative_to(self.root / "images").as_posix()


def _some(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
