"""Whether the devices on a new bundle do worse than those on the old one: rules over numbers, without I/O.

Devices, not answers, are what is compared where there are enough of them: answers of one device resemble each other, and a test
that took them for independent would stop good rollouts. With too few devices to tell anything, the answers are compared, and
that is said.
A gate is breached only where a difference is both larger than tolerated and too large for chance.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

PERMUTATIONS = 2000


class Gates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rollout tolerates. `alpha`: how often chance alone may breach one gate."""

    alpha: float = 0.01
    max_install_failures: float = 0.1  # share of the cohort's devices
    max_crashes_per_hour: float = 0.1  # more than the others have
    max_latency_ratio: float = 1.5  # p95 against the others'
    max_confidence_drop: float = 0.05
    max_label_shift: float = 0.15  # total variation between the shares of labels
    max_drift: float = 0.0  # drift score more than the others'; 0: not looked at
    max_accuracy_drop: float = 0.03  # where labels exist
    min_reported: float = 0.8  # share of the cohort that must have reported from the new bundle before the next step


@dataclass
class Seen:
    """One device's reports on one bundle, added up."""

    hours: float = 0.0
    crashes: int = 0
    latency_us_p95: list[float] = field(default_factory=list)
    answers: int = 0
    confidence_sum: float = 0.0
    confidence_squares: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)
    drift: list[float] = field(default_factory=list)
    right: int = 0
    labelled: int = 0

    @property
    def confidence(self) -> float | None:
        return self.confidence_sum / self.answers if self.answers else None


@dataclass(frozen=True)
class Finding:
    """One gate's verdict. `breached` None: nothing to judge by yet."""

    gate: str
    breached: bool | None
    text: str


def judge(gates: Gates, new: dict[str, Seen], old: dict[str, Seen], failed: int, installed: int) -> list[Finding]:
    """Every gate, in words. `new`, `old`: by device. `failed`: devices of the cohort that refused the bundle or gave it back."""
    rng = np.random.default_rng(0)
    return [
        _failures(gates, failed, installed),
        _crashes(gates, new, old),
        _ratio("p95 latency", gates.max_latency_ratio, gates.alpha, _latencies(new), _latencies(old), rng),
        _drop("mean confidence", gates.max_confidence_drop, gates.alpha, new, old, rng),
        _labels(gates, new, old, rng),
        _drift(gates, new, old, rng),
        _accuracy(gates, new, old),
    ]


def _failures(gates: Gates, failed: int, installed: int) -> Finding:
    """Exact binomial: are there more failures than tolerated?"""
    from scipy.stats import binomtest

    tried = failed + installed
    if not tried:
        return Finding("install failures", None, "no device has tried it yet")
    said = f"{failed} of {tried} devices refused it or gave it back"
    if failed == tried:
        return Finding("install failures", True, f"{said}: all of them")
    p = binomtest(failed, tried, gates.max_install_failures, alternative="greater").pvalue
    return Finding(
        "install failures", bool(p < gates.alpha), f"{said}; {gates.max_install_failures:.0%} are tolerated (p = {p:.2g})"
    )


def _crashes(gates: Gates, new: dict[str, Seen], old: dict[str, Seen]) -> Finding:
    """Two Poisson rates (the E-test)."""
    from scipy.stats import poisson_means_test

    hours, others = sum(s.hours for s in new.values()), sum(s.hours for s in old.values())
    if not hours:
        return Finding("crash rate", None, "no report yet")
    crashes, before = sum(s.crashes for s in new.values()), sum(s.crashes for s in old.values())
    said = f"{crashes} in {hours:.3g} device hours"
    if not others:
        return Finding("crash rate", bool(crashes > gates.max_crashes_per_hour * hours + 3), f"{said}; nobody to compare with")
    said += f"; {before} in {others:.3g} on the old one"
    excess = crashes / hours - before / others
    p = poisson_means_test(crashes, hours, before, others, alternative="greater").pvalue if crashes + before else 1.0
    return Finding("crash rate", bool(excess > gates.max_crashes_per_hour and p < gates.alpha), f"{said} (p = {p:.2g})")


def _latencies(seen: dict[str, Seen]) -> list[float]:
    return [float(np.mean(s.latency_us_p95)) for s in seen.values() if s.latency_us_p95]


def _ratio(gate: str, limit: float, alpha: float, new: list[float], old: list[float], rng: Any) -> Finding:
    if not new:
        return Finding(gate, None, "no report yet")
    mean = float(np.mean(new))
    if not old:
        return Finding(gate, None, f"{mean:,.0f} µs; nobody to compare with")
    before = float(np.mean(old))
    p, how = _compared(new, old, alpha, rng)
    said = f"{mean:,.0f} µs against {before:,.0f} µs on the old one"
    return Finding(gate, mean > limit * before and p < alpha, f"{said}; {limit:g}× is tolerated ({how})")


def _drop(gate: str, limit: float, alpha: float, new: dict[str, Seen], old: dict[str, Seen], rng: Any) -> Finding:
    mine = [c for s in new.values() if (c := s.confidence) is not None]
    others = [c for s in old.values() if (c := s.confidence) is not None]
    if not mine or not others:
        return Finding(gate, None, "no report yet" if not mine else "nobody to compare with")
    drop = float(np.mean(others) - np.mean(mine))
    said = f"{np.mean(mine):.3f} against {np.mean(others):.3f} on the old one"
    if _enough(len(mine), len(others), alpha):
        p, how = _compared([-c for c in mine], [-c for c in others], alpha, rng)
    else:
        p, how = _welch(new, old)
    return Finding(gate, drop > limit and p < alpha, f"{said}; a drop of {limit:g} is tolerated ({how})")


def _welch(new: dict[str, Seen], old: dict[str, Seen]) -> tuple[float, str]:
    """Welch's test on answers."""
    from scipy.stats import ttest_ind_from_stats

    def moments(seen: dict[str, Seen]) -> tuple[float, float, int]:
        n = sum(s.answers for s in seen.values())
        mean = sum(s.confidence_sum for s in seen.values()) / n
        return mean, math.sqrt(max(1e-12, sum(s.confidence_squares for s in seen.values()) / n - mean**2)), n

    (mean, std, n), (before, spread, m) = moments(new), moments(old)
    if min(n, m) < 2:
        return 1.0, "too few answers"
    p = float(ttest_ind_from_stats(mean, std, n, before, spread, m, equal_var=False, alternative="less").pvalue)
    return p, f"p = {p:.2g} over answers, as devices are few"


def _compared(new: list[float], old: list[float], alpha: float, rng: Any) -> tuple[float, str]:
    """One-sided permutation test of the means over devices: are the new ones larger?"""
    if not _enough(len(new), len(old), alpha):
        # No order of so few devices is rarer than alpha: all of the new ones beyond all of the old ones has to do.
        beyond = min(new) > max(old)
        return (0.0 if beyond else 1.0), f"{len(new)} and {len(old)} devices: {'all' if beyond else 'not all'} beyond the old ones"
    pooled, size = np.array([*new, *old]), len(new)
    shuffled = rng.permuted(np.tile(pooled, (PERMUTATIONS, 1)), axis=1)[:, :size].mean(axis=1)
    p = float((1 + (shuffled >= np.mean(new) - 1e-12).sum()) / (1 + PERMUTATIONS))
    return p, f"p = {p:.2g} over devices"


def _enough(new: int, old: int, alpha: float) -> bool:
    return math.comb(new + old, new) * alpha >= 1


def _labels(gates: Gates, new: dict[str, Seen], old: dict[str, Seen], rng: Any) -> Finding:
    """Total variation between pooled shares; permutation over devices, or chi-square over answers where they are few."""
    from scipy.stats import chi2_contingency

    rows = [s.labels for s in (*new.values(), *old.values()) if s.labels]
    mine = sum(1 for s in new.values() if s.labels)
    if not mine or mine == len(rows):
        return Finding("label mix", None, "no report yet" if not mine else "nobody to compare with")
    names = sorted({name for row in rows for name in row})
    table = np.array([[row[name] for name in names] for row in rows], dtype=float)

    def shift(order: Any) -> float:
        ours, theirs = table[order[:mine]].sum(axis=0), table[order[mine:]].sum(axis=0)
        return float(np.abs(ours / ours.sum() - theirs / theirs.sum()).sum() / 2)

    found = shift(np.arange(len(rows)))
    if _enough(mine, len(rows) - mine, gates.alpha):
        shuffled = [shift(rng.permutation(len(rows))) for _ in range(PERMUTATIONS // 4)]
        p = (1 + sum(s >= found - 1e-12 for s in shuffled)) / (1 + len(shuffled))
        how = f"p = {p:.2g} over devices"
    else:
        p = float(chi2_contingency(np.array([table[:mine].sum(axis=0), table[mine:].sum(axis=0)])).pvalue)
        how = f"p = {p:.2g} over answers, as devices are few"
    said = f"{found:.1%} of the answers have moved between labels"
    return Finding(
        "label mix", found > gates.max_label_shift and p < gates.alpha, f"{said}; {gates.max_label_shift:.0%} is tolerated ({how})"
    )


def _drift(gates: Gates, new: dict[str, Seen], old: dict[str, Seen], rng: Any) -> Finding:
    mine = [float(np.mean(s.drift)) for s in new.values() if s.drift]
    others = [float(np.mean(s.drift)) for s in old.values() if s.drift]
    if not gates.max_drift or not mine or not others:
        return Finding("drift", None, "not looked at" if not gates.max_drift else "no score reported")
    p, how = _compared(mine, others, gates.alpha, rng)
    more = float(np.mean(mine) - np.mean(others))
    return Finding("drift", more > gates.max_drift and p < gates.alpha, f"{more:+.3g} against the old one ({how})")


def _accuracy(gates: Gates, new: dict[str, Seen], old: dict[str, Seen]) -> Finding:
    """Fisher's exact test, one-sided."""
    from scipy.stats import fisher_exact

    right, labelled = sum(s.right for s in new.values()), sum(s.labelled for s in new.values())
    before, others = sum(s.right for s in old.values()), sum(s.labelled for s in old.values())
    if not labelled or not others:
        return Finding("accuracy", None, "no labels")
    p = float(fisher_exact([[right, labelled - right], [before, others - before]], alternative="less").pvalue)
    drop = before / others - right / labelled
    said = f"{right / labelled:.1%} of {labelled} labelled answers against {before / others:.1%} of {others}"
    return Finding("accuracy", drop > gates.max_accuracy_drop and p < gates.alpha, f"{said} (p = {p:.2g})")
