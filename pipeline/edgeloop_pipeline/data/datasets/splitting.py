"""Divides units into splits: quotas, stratified by class, no group in two splits. Equal data give equal splits anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.settings import nearest
from edgeloop_pipeline.data.types import NAMES

SHARE = 0.15  # of validation, and of the test set; the rest is for training
HELD = ("validation", "test")
MANY_UNITS = 2000
MISSING = 1e6  # worse than any deviation from a share
MAX_NAMED = 8


@dataclass(frozen=True)
class Wanted:
    """The wanted splits. `held`: the splits besides training; `named`: those of them whose members data.py names."""

    held: tuple[str, ...] = HELD
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, str]:
        """Unit → split, for the named units. Raises DataError for a unit in both."""
        both = sorted(set(self.validation) & set(self.test))
        if both:
            raise DataError(f"{both[0]!r} is in validation and in test; leave it in one of them")
        return {**dict.fromkeys(self.validation, "validation"), **dict.fromkeys(self.test, "test")}


def order(name: str) -> bytes:
    """A sort key for units: independent of alphabet and time, and always the same."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def plural(what: str) -> str:
    return what + ("es" if what.endswith(("ch", "s")) else "s")


def quota(count: int) -> int:
    """The number of `count` units for validation, which is also that for the test set."""
    return max(1, round(SHARE * count))


def divide(labels: Sequence[str], units: Sequence[str], what: str, wanted: Wanted = Wanted()) -> list[str]:
    """The split of each recording, by its class and its unit (a subject, a file). `what`: the word for a unit.

    Every class is in every split. Raises DataError that names each class with too few units.
    """
    names = sorted(set(units), key=order)
    classes = sorted(set(labels))
    counts = np.zeros((len(names), len(classes)), np.int64)
    at, row = {name: i for i, name in enumerate(names)}, {name: i for i, name in enumerate(classes)}
    for label, unit in zip(labels, units, strict=True):
        counts[at[unit], row[label]] += 1
    given = _named(wanted, at, what)
    held = tuple(name for name in wanted.held if name not in given.values())
    problems = _too_few(classes, counts, names, given, held, what)
    if problems:
        raise DataError("; ".join(problems))
    sides = _sides(counts, given, held)
    return [sides[at[unit]] for unit in units]


def _named(wanted: Wanted, at: dict[str, int], what: str) -> dict[int, str]:
    found = {}
    for unit, split in wanted.named.items():
        if unit not in at:
            raise DataError(f"{split}: there is no {what} {unit!r}{nearest(unit, sorted(at)[:1000])}; correct it in data.py")
        found[at[unit]] = split
    return found


def _too_few(
    classes: list[str], counts: Array, names: list[str], given: dict[int, str], held: tuple[str, ...], what: str
) -> list[str]:
    free = np.array([i not in given for i in range(len(names))])
    problems, needed = [], 1 + len(held)
    for k, label in enumerate(classes):
        mine = np.flatnonzero((counts[:, k] > 0) & free)
        if len(mine) < needed:
            shown = ", ".join(sorted(names[i] for i in mine)[:MAX_NAMED])
            problems.append(
                f"class {label!r} has {len(mine)} {what if len(mine) == 1 else plural(what)} to divide ({shown or 'none'}), and"
                f" {' and '.join(('train', *held))} need one each: add more, or leave the class out"
            )
    return problems


def _sides(counts: Array, given: dict[int, str], held: tuple[str, ...]) -> list[str]:
    sides = [given.get(i, "train") for i in range(len(counts))]
    free = np.array([i for i in range(len(counts)) if i not in given], np.int64)
    if not held or not len(free):
        return sides
    for units in _strata(counts, free):
        for i, split in _by_quota(counts, units, held).items():
            sides[i] = split
    return sides


def _strata(counts: Array, free: Array) -> list[Array]:
    """The groups of units to divide separately: those of one class; one group if units hold several classes."""
    if ((counts > 0).sum(1) == 1).all() or len(free) > MANY_UNITS:
        main = counts[free].argmax(1)
        return [free[main == k] for k in np.unique(main)]
    return [free]


def _by_quota(counts: Array, units: Array, held: tuple[str, ...]) -> dict[int, str]:
    """Assign units to the held splits, one at a time: each time the unit that brings the classes' shares closest to the quotas."""
    found: dict[int, str] = {}
    here = counts[units]
    total = here.sum(0)
    present = total > 0
    size = quota(len(units)) if len(units) > len(held) else 0
    if len(units) > MANY_UNITS or (here == here[0]).all():  # all units are equally good
        return {int(units[k * size + i]): split for k, split in enumerate(held) for i in range(size)}
    left = np.ones(len(units), bool)
    for place, split in enumerate(held):
        have = np.zeros(here.shape[1])
        after = len(held) - place  # splits that still need units: the later ones, and train
        taken = 0
        while left.sum() > after and (taken < size or (taken and (have[present] == 0).any())):
            best = _best(here, left, have, total, present, after, size)
            if taken >= size and not (here[best][(have == 0) & present] > 0).any():
                break
            have += here[best]
            left[best] = False
            found[int(units[best])] = split
            taken += 1
    return found


def _best(here: Array, left: Array, have: Array, total: Array, present: Array, after: int, size: int) -> int:
    """The first of the remaining units with the least cost."""
    rows = np.flatnonzero(left)
    with_it = have + here[rows]
    holders = (here[rows] > 0).sum(0) - (here[rows] > 0)  # per class, without this unit
    exhausted = ((holders < after) & present).sum(1)
    lacking = ((with_it == 0) & present).sum(1)
    wanted = np.maximum(SHARE * total, total / max(1, len(here)) * size) * present
    off = np.square((with_it - wanted) / np.maximum(wanted, 1e-9))[:, present].sum(1)
    return int(rows[np.argmin(MISSING * (10 * exhausted + lacking) + off)])


def divide_values(values: Sequence[float], units: Sequence[str], what: str, wanted: Wanted = Wanted()) -> list[str]:
    """The splits for quantities: units in order of their mean, with the held ones evenly between the others.

    If the quantity never changes within a unit, each held split gets two units with different values. Raises DataError.
    """
    names = sorted(set(units), key=order)
    at = {name: i for i, name in enumerate(names)}
    place = np.array([at[unit] for unit in units])
    truth = np.asarray(values, np.float64)
    count = np.bincount(place, minlength=len(names))
    mean = np.bincount(place, truth, len(names)) / count
    spread = np.bincount(place, np.abs(truth - mean[place]), len(names))
    given = _named(wanted, at, what)
    held = tuple(name for name in wanted.held if name not in given.values())
    free = sorted((i for i in range(len(names)) if i not in given), key=lambda i: (mean[i], i))
    flat = bool((spread < 1e-12).all())
    size = max(2 if flat else 1, quota(len(free))) if held else 0
    if len(free) - size * len(held) < (2 if flat else 1):
        raise DataError(
            f"{len(free)} {plural(what)} to divide, and {' and '.join(('train', *held))} need"
            f" {'two each, because the quantity never changes within one' if flat else 'one each'}: add more"
        )
    sides = [given.get(i, "train") for i in range(len(names))]
    chosen = size * len(held)
    for k in range(chosen):
        sides[free[(k + 1) * len(free) // (chosen + 1)]] = held[k % len(held)]
    return [sides[i] for i in place]


def check_given(labels: Sequence[str], sides: Sequence[str]) -> None:
    """Check the given split folders. Raises DataError that names each class without training recordings."""
    trained = {label for label, side in zip(labels, sides, strict=True) if side == "train"}
    problems = []
    for label in sorted(set(labels) - trained):
        others = [side for name, side in zip(labels, sides, strict=True) if name == label]
        where = " and ".join(f"{others.count(name)} for {name}" for name in NAMES if name in others)
        problems.append(f"class {label!r} has {where}, and none for train")
    if problems:
        raise DataError(
            "; ".join(problems) + ": a network cannot learn it; move some of its files to train, or leave the class out"
        )
