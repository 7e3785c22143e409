"""Challenger against champion: better in the field, and not worse on the recipe's test set. Rules over answers, without I/O.

Answers of one recording err together, so whole recordings are compared: a paired permutation test that flips the sign of each
recording's difference (Fisher 1935), and a bootstrap over recordings for the intervals that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec
import numpy as np

from edgeloop_contract.arrays import Array

FLIPS = 4000  # with fewer possible ones, each of them is counted
FLIPS_AT_ONCE = 500
RESAMPLES = 2000


@dataclass(frozen=True)
class ChallengerLimits:
    """`alpha`: how often a challenger that is no better may pass. Drops are of the metric, whose best value is 1."""

    alpha: float = 0.05
    max_test_drop: float = 0.005
    max_slice_drop: float = 0.05
    min_field_samples: int = 20
    min_slice_samples: int = 20


class Comparison(msgspec.Struct, frozen=True):
    """One set of samples: both models' metric, the difference with a 95 % interval, and p values of better and worse by chance."""

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


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`metric`: its name. `reasons`: to refuse.

    `cautions`: slices that fell, of too few recordings to tell it from chance. They refuse nothing.
    """

    passed: bool
    reasons: list[str]
    test: Comparison = msgspec.field(name="home")
    field: Comparison
    slices: list[Comparison] = []
    cautions: list[str] = []
    metric: str = "accuracy"


class Compared(Protocol):
    """Both models' answers to one set of samples."""

    @property
    def metric(self) -> str: ...

    @property
    def recordings(self) -> Array:
        """Of each sample (N,)."""

    @property
    def lacking(self) -> str:
        """Why the samples may give no metric."""

    def whole(self, name: str) -> Comparison: ...

    def slices(self, where: str, limits: ChallengerLimits) -> list[Comparison]: ...


@dataclass(frozen=True)
class Answers:
    """(N,) whether each model was right, each sample's recording, and the slices that the samples belong to, by kind."""

    champion: Array
    challenger: Array
    recordings: Array
    kinds: dict[str, Array] = field(default_factory=dict)
    metric: str = "accuracy"
    lacking: str = ""

    def whole(self, name: str) -> Comparison:
        return compare(name, self.champion, self.challenger, self.recordings)

    def slices(self, where: str, limits: ChallengerLimits) -> list[Comparison]:
        found = []
        for kind, names in self.kinds.items():
            for name in np.unique(names):
                rows = names == name
                if rows.sum() >= limits.min_slice_samples:
                    label = f"{where}, {kind} {name}"
                    found.append(compare(label, self.champion[rows], self.challenger[rows], self.recordings[rows]))
        return found


def nothing(name: str) -> Comparison:
    """Of no samples."""
    return Comparison(name, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0)


def compare(name: str, champion: Array, challenger: Array, recordings: Array, seed: int = 0) -> Comparison:
    """Both models on the same samples, paired by recording. `champion`, `challenger`: (N,) right or wrong."""
    rng = np.random.default_rng(seed)
    _, place = np.unique(recordings, return_inverse=True)
    n = int(place.max()) + 1 if len(place) else 0
    if not n:
        return nothing(name)
    gained = np.bincount(place, challenger.astype(float) - champion.astype(float), n)
    sizes = np.bincount(place, minlength=n).astype(float)
    resampled = rng.integers(0, n, (RESAMPLES, n))
    differences = gained[resampled].sum(1) / sizes[resampled].sum(1)
    low, high = np.percentile(differences, [2.5, 97.5])
    return Comparison(
        name, len(place), n, float(champion.mean()), float(challenger.mean()), float(gained.sum() / len(place)), float(low),
        float(high), sign_flip_p(gained, rng), sign_flip_p(-gained, rng),
    )  # fmt: skip


def sign_flip_p(differences: Array, rng: np.random.Generator) -> float:
    """The p of a sum (N,) as large as this, where each difference has its sign by chance."""
    from scipy.stats import permutation_test

    if len(differences) == 1:  # the library wants two; both signs of one are counted here
        return 0.5 if differences[0] > 0 else 1.0
    tested = permutation_test(
        (differences,), np.sum, permutation_type="samples", alternative="greater", vectorized=True, n_resamples=FLIPS,
        batch=FLIPS_AT_ONCE, rng=rng,
    )  # fmt: skip
    return float(tested.pvalue)


def judge(test: Compared, field: Compared, limits: ChallengerLimits, more: Sequence[str] = ()) -> Verdict:
    """`more`: reasons to refuse that were found elsewhere, such as a floor of the recipe that was missed."""
    reasons = list(more)
    on_test, in_field = test.whole("test set"), field.whole("field")
    slices = [*test.slices("test set", limits), *field.slices("field", limits)]
    metric, words = test.metric, partial(_in_words, test.metric)
    if not in_field.samples and field.lacking:
        reasons.append(f"the held-out field samples have no {metric}: {field.lacking}")
    elif in_field.samples < limits.min_field_samples:
        reasons.append(f"only {in_field.samples} held-out field samples; {limits.min_field_samples} are needed to tell anything")
    elif in_field.p_better >= limits.alpha:
        reasons.append(
            f"not shown to be better in the field: {words(in_field)}, p = {in_field.p_better:.2g} (alpha {limits.alpha:g})"
        )  # fmt: skip
    if on_test.difference < -limits.max_test_drop:
        reasons.append(f"worse on the test set: {words(on_test)}; at most {limits.max_test_drop:.1%} may be lost")
    alpha, cautions = limits.alpha / max(1, len(slices)), []
    for one in slices:
        if one.difference >= -limits.max_slice_drop:
            continue
        if one.p_worse < alpha:
            reasons.append(f"worse for {one.name}: {words(one)}, p = {one.p_worse:.2g}")
        elif one.high < 0:
            cautions.append(
                f"{one.name} fell, which chance may do to one of {len(slices)} slices (p = {one.p_worse:.2g}): {words(one)}"
            )
    return Verdict(
        passed=not reasons, reasons=reasons, test=on_test, field=in_field, slices=slices, cautions=cautions, metric=metric
    )


def _in_words(metric: str, one: Comparison) -> str:
    of = f"{one.champion:.1%} → {one.challenger:.1%} of" if metric == "accuracy" else _both(one, metric) + " on"
    return (
        f"{of} {one.samples} samples in {one.recordings} recordings ({one.difference:+.1%}, 95 % {one.low:+.1%} to {one.high:+.1%})"
    )


def _both(one: Comparison, metric: str) -> str:
    return f"{metric} {one.champion:.1%} → {one.challenger:.1%}"


def gain(verdict: Verdict) -> str:
    """What the field gained, in words."""
    return f"{_both(verdict.field, verdict.metric)} in the field"
