"""Challenger against champion: better in the field, and not worse at home. Rules over right and wrong answers, without I/O.

Answers of one recording err together, so whole recordings are what is compared: a paired permutation test by flipping the sign of
each recording's difference (Fisher 1935), and a bootstrap over recordings for the intervals that are shown.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array

FLIPS = 4000
RESAMPLES = 2000


@dataclass(frozen=True)
class Limits:
    """`alpha`: how often a challenger that is no better may pass. Drops are shares of right answers."""

    alpha: float = 0.05
    max_home_drop: float = 0.005
    max_slice_drop: float = 0.05
    min_field_samples: int = 20
    min_slice_samples: int = 20


@dataclass(frozen=True)
class Compared:
    """One set of samples: both accuracies, their difference with a 95 % interval, and p values of better and of worse by chance."""

    name: str
    samples: int
    recordings: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    p_better: float
    p_worse: float


@dataclass(frozen=True)
class Verdict:
    """`cautions`: slices that fell, of so few recordings that it cannot be told from chance. They refuse nothing."""

    passed: bool
    reasons: list[str]
    home: Compared
    field: Compared
    slices: list[Compared] = dataclasses.field(default_factory=list)
    cautions: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Answers:
    """(N,) whether each model was right, which recording each sample is of, and the slices each belongs to, by kind."""

    champion: Array
    challenger: Array
    recordings: Array
    slices: dict[str, Array] = dataclasses.field(default_factory=dict)


def compare(name: str, champion: Array, challenger: Array, recordings: Array, seed: int = 0) -> Compared:
    """Paired, by recording."""
    rng = np.random.default_rng(seed)
    _, place = np.unique(recordings, return_inverse=True)
    n = int(place.max()) + 1 if len(place) else 0
    if not n:
        return Compared(name, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)
    gained = np.bincount(place, challenger.astype(float) - champion.astype(float), n)
    sizes = np.bincount(place, minlength=n).astype(float)
    total = gained.sum()
    flips = rng.choice((-1.0, 1.0), (FLIPS, n)) @ gained
    drawn = rng.integers(0, n, (RESAMPLES, n))
    spread = gained[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(spread, [2.5, 97.5])
    tie = 1e-9
    return Compared(
        name, len(place), n, float(champion.mean()), float(challenger.mean()), float(total / len(place)), float(low), float(high),
        float((1 + (flips >= total - tie).sum()) / (FLIPS + 1)), float((1 + (flips <= total + tie).sum()) / (FLIPS + 1)),
    )  # fmt: skip


def judge(home: Answers, field: Answers, limits: Limits, more: Sequence[str] = ()) -> Verdict:
    """`more`: reasons to refuse that were found elsewhere, such as a floor of the recipe that was missed."""
    reasons = list(more)
    at_home = compare("home", home.champion, home.challenger, home.recordings)
    in_field = compare("field", field.champion, field.challenger, field.recordings)
    slices = _slices(home, field, limits)
    if in_field.samples < limits.min_field_samples:
        reasons.append(f"only {in_field.samples} held-out field samples; {limits.min_field_samples} are needed to tell anything")
    elif in_field.p_better >= limits.alpha:
        reasons.append(
            f"not shown to be better in the field: {_said(in_field)}, p = {in_field.p_better:.2g} (alpha {limits.alpha:g})"
        )  # fmt: skip
    if at_home.difference < -limits.max_home_drop:
        reasons.append(f"worse at home: {_said(at_home)}; at most {limits.max_home_drop:.1%} may be lost")
    alpha, cautions = limits.alpha / max(1, len(slices)), []
    for one in slices:
        if one.difference >= -limits.max_slice_drop:
            continue
        if one.p_worse < alpha:
            reasons.append(f"worse for {one.name}: {_said(one)}, p = {one.p_worse:.2g}")
        elif one.high < 0:
            cautions.append(
                f"{one.name} fell, which chance may do to one of {len(slices)} slices (p = {one.p_worse:.2g}): {_said(one)}"
            )
    return Verdict(not reasons, reasons, at_home, in_field, slices, cautions)


def _slices(home: Answers, field: Answers, limits: Limits) -> list[Compared]:
    found = []
    for where, answers in (("home", home), ("field", field)):
        for kind, names in answers.slices.items():
            for name in np.unique(names):
                rows = names == name
                if rows.sum() >= limits.min_slice_samples:
                    found.append(
                        compare(
                            f"{where}, {kind} {name}", answers.champion[rows], answers.challenger[rows], answers.recordings[rows]
                        )
                    )  # fmt: skip
    return found


def _said(one: Compared) -> str:
    return (
        f"{one.champion:.1%} → {one.challenger:.1%} of {one.samples} samples in {one.recordings} recordings"
        f" ({one.difference:+.1%}, 95 % {one.low:+.1%} to {one.high:+.1%})"
    )
