"""COCO's outlines as masks: the things of each picture, and its mask of the numbers of labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE
from edgeloop_pipeline.data.datasets.annotations import coco
from edgeloop_pipeline.data.datasets.annotations.outlines import Outline, outline_of
from edgeloop_pipeline.data.datasets.annotations.pictures import TURNED, Findings, size_of
from edgeloop_pipeline.data.datasets.annotations.places import Pictures, split_of

__all__ = ["OutlinedPicture", "Overlap", "Thing", "painted", "read_outlines"]

Overlap = Literal["smaller", "later"]
MOSTLY, BOX_VALUES = 0.5, 4
TURNS = {  # a stored picture, or its mask, as EXIF shows it
    2: lambda m: m[:, ::-1], 3: lambda m: m[::-1, ::-1], 4: lambda m: m[::-1], 5: lambda m: m.T,
    6: lambda m: np.rot90(m, -1), 7: lambda m: m[::-1, ::-1].T, 8: lambda m: np.rot90(m),
}  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """One annotation. `label` "": a crowd, or a thing whose pixels are not known. `box`: x, y, width, height, else."""

    label: str
    outline: Outline | None = None
    box: tuple[float, ...] = ()


@dataclass(frozen=True)
class OutlinedPicture:
    """`height`, `width`: of the picture as annotated; `orientation`: of EXIF, where it was annotated as it is stored, else 1."""

    path: Path
    height: int
    width: int
    things: tuple[Thing, ...]
    split: str = ""
    orientation: int = 1

    @property
    def labels(self) -> set[str]:
        return {thing.label for thing in self.things} - {""}


def painted(picture: OutlinedPicture, numbers: Mapping[str, int], overlap: Overlap) -> Array:
    """The mask of an upright picture, (height, width) uint8: 0 where nothing is, 255 where nobody knows.

    `numbers`: of labels; others are not painted. Of things that overlap the smaller one, or the later one, is on top.
    """
    made = np.zeros((picture.height, picture.width), np.uint8)
    masks = []
    for thing in picture.things:
        if thing.label and thing.label not in numbers:
            continue
        mask = _mask(thing, picture.height, picture.width)
        if thing.label:
            masks.append((int(mask.sum()), numbers[thing.label], mask))
        else:
            made[mask] = NOWHERE
    if overlap == "smaller":
        masks.sort(key=lambda row: -row[0])
    for _, number, mask in masks:
        made[mask] = number
    turn = TURNS.get(picture.orientation)
    return made if turn is None else np.ascontiguousarray(turn(made))


def _mask(thing: Thing, height: int, width: int) -> Array:
    if thing.outline is not None:
        return thing.outline.mask(height, width)
    made = np.zeros((height, width), bool)
    x, y, w, h = thing.box
    made[max(0, int(y)) : max(0, int(np.ceil(y + h))), max(0, int(x)) : max(0, int(np.ceil(x + w)))] = True
    return made


def read_outlines(root: Path) -> tuple[list[str], list[OutlinedPicture], Findings]:
    """Names of the categories, the pictures, and what was found besides. Raises DataError where nothing useful is left."""
    findings = Findings()
    found = {path: coco.decoded(path) for path in coco.files(root)}
    if not found:
        raise DataError(f"{root}: no COCO JSON; give the folder that holds it")
    names = coco.category_names(root, found, findings)
    places, several = Pictures(root if root.is_dir() else root.parent), len(found) > 1
    made: dict[Path, OutlinedPicture] = {}
    for path, data in found.items():
        things, sizes = _things(path, data, names, findings), {str(image.id): image for image in data.images}
        for number, image in sizes.items():
            split = split_of(path) if several else ""
            at = places.named(image.file_name, near=path.parent, prefer=split)
            picture = _picture(at, (image.height, image.width), things[number], split, findings)
            if picture is not None and at in made:
                raise DataError(f"{at}: is listed twice; leave it in one list, or the test would show what was learnt by heart")
            if picture is not None:
                made[at] = picture
    total = sum(findings.counts[what] for what in BROKEN)
    whole = sum(thing.outline is not None for picture in made.values() for thing in picture.things)
    if not whole or total > MOSTLY * (total + whole):
        why = f": {findings.lines()[0]}" if findings.lines() else ""
        raise DataError(f"{root}: {whole} outlines can be used, and {total} cannot{why}; export the annotations again")
    return list(names.values()), list(made.values()), findings


BROKEN = ("broken outlines, whose pixels are not known", "outlines of another size than their picture")


def _things(path: Path, data: coco.Coco, names: dict[int, str], findings: Findings) -> dict[str, list[Thing]]:
    things: dict[str, list[Thing]] = {number: [] for number in coco.empty(path, data)}
    sizes = {str(image.id): (image.height, image.width) for image in data.images}
    for row in data.annotations:
        number = str(row.image_id)
        if number not in things or row.category_id not in names:
            what = "of pictures that are" if number not in things else "of a category that is"
            findings.add(f"outlines {what} not listed", path.name)
            continue
        label, outline = "" if row.iscrowd else names[row.category_id], None
        try:
            outline = outline_of(msgspec.json.decode(row.segmentation)) if row.is_outlined else None
        except (DataError, msgspec.MsgspecError):
            findings.add(BROKEN[0], path.name)
        else:
            if outline is None:
                findings.add("annotations without an outline, whose pixels are not known", path.name)
            elif outline.size not in ((0, 0), sizes[number]) and 0 not in sizes[number]:
                findings.add(BROKEN[1], path.name)
                outline = None
            elif row.iscrowd:
                findings.add("crowds, whose pixels are not known", path.name)
        if outline is not None:
            things[number].append(Thing(label, outline))
        elif row.bbox is not None and len(row.bbox) == BOX_VALUES and np.isfinite(row.bbox).all():
            things[number].append(Thing("", None, tuple(row.bbox)))
    return things


def _picture(path: Path, annotated: tuple[int, int], things: list[Thing], split: str, findings: Findings) -> OutlinedPicture | None:
    """The picture, with the size that its outlines are of; None where it is missing, unreadable, or another one."""
    if not path.is_file():
        findings.add("pictures that are annotated and not there", path.name)
        return None
    try:
        width, height, orientation = size_of(path)
    except DataError:
        findings.add("files that are no readable pictures", path.name)
        return None
    stored = (height, width)
    upright = (width, height) if orientation in TURNED else stored
    size = upright if 0 in annotated else annotated
    if size not in (upright, stored):
        findings.add("pictures of another size than annotated", path.name)
        return None
    if orientation != 1:
        what = "taken as upright" if size == upright else "turned with it"
        findings.add(f"pictures turned by EXIF, outlines {what}", path.name)
    if not things:
        findings.add("pictures without outlines, kept as they are", path.name)
    return OutlinedPicture(path, *size, tuple(things), split, 1 if size == upright else orientation)
