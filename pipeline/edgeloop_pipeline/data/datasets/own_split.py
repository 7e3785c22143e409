"""Splits of listed files: the data's own where there is one, else by quotas, stratified by the rarest label of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.data.datasets.annotations.pictures import Findings
from edgeloop_pipeline.data.datasets.splitting import HELD, SHARE, Wanted, divide, plural

__all__ = ["FEWEST", "Item", "Members", "sides_of", "split_by"]

FEWEST = 3  # units of a label, so that each split can have one


@dataclass(frozen=True)
class Item:
    """A file with its labels, and the name of who or what it is of. `split`: as the data say; "" where they do not."""

    path: Path
    labels: Collection[str]
    unit: str
    split: str = ""


@dataclass(frozen=True)
class Members:
    """What data.py says of the splits. `what`: the word for a file; `grouped`: whether units are groups."""

    what: str
    grouped: bool = False
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def unit_name(self) -> str:
        return "group" if self.grouped else self.what


def sides_of(root: Path, items: Sequence[Item], members: Members, findings: Findings) -> list[str]:
    """The split of each file. Raises DataError."""
    sides = [item.split for item in items]
    given, what = {side for side in sides if side}, plural(members.what)
    if given and "train" not in given:
        raise DataError(f"{root}: has {what} for {' and '.join(sorted(given))} and none for train; add them")
    held = tuple(name for name in HELD if name not in given)
    if given and any(getattr(members, name) and name not in held for name in HELD):
        raise DataError("data.py names validation or test, and the data have that split too; leave out one of the two")
    if given and (alone := sides.count("")):
        findings.add(f"{what} in no split, left out", next(item.path.name for item in items if not item.split), alone)
    rows = [i for i, side in enumerate(sides) if side == ("train" if given else "")]
    if held:
        wanted = Wanted(held, *(getattr(members, name) if name in held else () for name in HELD))
        for i, side in zip(rows, _drawn([items[i] for i in rows], members, wanted), strict=True):
            sides[i] = side
    return sides


def _drawn(items: Sequence[Item], members: Members, wanted: Wanted) -> list[str]:
    """A split for each file, stratified by the rarest label in it; equal files and groups stay whole, and train has every label."""
    units = [item.unit for item in items]
    if not members.grouped:
        same: dict[str, str] = {}
        units = [same.setdefault(sha256(item.path), unit) for item, unit in zip(items, units, strict=True)]
    counts = Counter(label for item in items for label in item.labels)
    rarest: dict[str, str] = {}
    for item, unit in zip(items, units, strict=True):
        label = min(set(item.labels), key=lambda label: (counts[label], label), default="")
        before = rarest.setdefault(unit, label)
        if label and (not before or counts[label] < counts[before]):
            rarest[unit] = label
    sizes = Counter(rarest.values())
    most = sizes.most_common(1)[0][0]
    strata = [most if sizes[rarest[unit]] < FEWEST else rarest[unit] for unit in units]
    sides = dict(zip(units, divide(strata, units, members.unit_name, wanted), strict=True))
    named = {*wanted.validation, *wanted.test}
    for label in sorted(counts):  # one in few files may have come to the held splits alone
        mine = [unit for item, unit in zip(items, units, strict=True) if label in item.labels]
        if all(sides[unit] != "train" for unit in mine) and (free := [unit for unit in mine if unit not in named]):
            sides[free[0]] = "train"
    return [sides[unit] for unit in units]


def split_by(given: set[str], members: Members) -> str:
    """How files are divided, in words. `given`: the splits that the data have."""
    if not given:
        return f"{1 - 2 * SHARE:.0%} / {SHARE:.0%} / {SHARE:.0%} of {plural(members.unit_name)}"
    lacking = [name for name in HELD if name not in given]
    return "the data's own split" + (f"; {' and '.join(lacking)} from train" if lacking else "")
