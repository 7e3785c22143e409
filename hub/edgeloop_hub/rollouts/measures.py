"""What each gate measures on both sides, and the test that it would make: rules over numbers, without I/O.

Devices, not answers, are what is compared where there are enough of them: answers of one device resemble each other, and a test
that took them for independent would stop good rollouts. With too few devices to tell anything, their reports are compared, and the
finding says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeloop_contract.rollout import GateLimits
from edgeloop_hub.rollouts import comparison
from edgeloop_hub.rollouts.comparison import clipped
from edgeloop_hub.rollouts.device_evidence import ByDevice, DeviceEvidence
from edgeloop_hub.rollouts.label_mix import MIN_REPORTS, OUTLIER, LabelMixes, moved, table_of

JITTER_US = 100.0  # what else a device does makes a small model's answers later by so much
LOOP = 40.0  # times the tolerated crash rate: a device that does nothing but crash
NOBODY = "nobody to compare with"
Test = Callable[[float], tuple[float, str]]  # p at a level, and how it was found


@dataclass(frozen=True)
class Measured:
    """One gate's figures. `worse`: by more than tolerated. `test`: p, asked at a level; None where there is nothing to test.

    `devices`: of the new bundle that gave figures; `needed`: how many of them must. `amount`: of evidence on the new bundle.
    """

    gate: str
    text: str
    new: str = ""
    old: str = ""
    limit: str = ""
    devices: int = 0
    needed: int = 0
    amount: float = 0.0
    unit: str = "reports"
    worse: bool = False
    waits: bool = False
    test: Test | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _Sides:
    """Everything that the gates of one rollout are measured on."""

    gates: GateLimits
    new: ByDevice
    old: ByDevice
    rng: np.random.Generator
    alone: bool

    def having(self, has: Callable[[DeviceEvidence], Any]) -> tuple[list[DeviceEvidence], list[DeviceEvidence]]:
        return [s for s in self.new.values() if has(s)], [s for s in self.old.values() if has(s)]

    def needed(self, others: Sequence[DeviceEvidence]) -> int:
        """How many devices must give a figure: as large a share as gives it on the old bundle, times `min_reported`."""
        share = len(others) / len(self.old) if self.old else 0.0
        return max(1, math.ceil(self.gates.min_reported * share * len(self.new) - 1e-9)) if others else 0

    def lacking(self, gate: str, mine: Sequence[DeviceEvidence], others: Sequence[DeviceEvidence], unit: str) -> Measured | None:
        """What is said while a side has too few figures; None where both have them."""
        needed = self.needed(others)
        if not others:
            return Measured(gate, NOBODY if mine else "no report yet", devices=len(mine), unit=unit)
        if len(mine) >= needed:
            return None
        text = f"{len(mine)} of {needed} devices on the new bundle have reported figures; {len(others)} on the old one have"
        return Measured(gate, text, devices=len(mine), needed=needed, unit=unit, waits=True)


def measured(
    gates: GateLimits, new: ByDevice, old: ByDevice, failed: int, installed: int, rng: np.random.Generator, alone: bool = False
) -> list[Measured]:
    """Every gate, in the order in which people read them. `alone`: no device is left that could report of an old bundle."""
    sides = _Sides(gates, new, old, rng, alone)
    return [
        _failures(gates, failed, installed), _crashes(sides), _latency(sides), _confidence(sides), _labels(sides), _drift(sides),
        _accuracy(sides),
    ]  # fmt: skip


def _failures(gates: GateLimits, failed: int, installed: int) -> Measured:
    """Exact binomial: are there more failures than tolerated?"""
    tried, limit = failed + installed, f"{gates.max_install_failures:.0%}"
    if not tried:
        return Measured("install failures", "no device has tried it yet", limit=limit, needed=1, unit="devices", waits=True)
    text = f"{failed} of {tried} devices refused it or gave it back"

    def test(_: float) -> tuple[float, str]:
        from scipy.stats import binomtest

        if failed == tried:
            return 0.0, "all of them"
        p = float(binomtest(failed, tried, gates.max_install_failures, alternative="greater").pvalue)
        return p, f"p = {p:.2g}"

    worse = failed > gates.max_install_failures * tried or failed == tried
    return Measured(
        "install failures", f"{text}; {limit} are tolerated", f"{failed} of {tried}", "", limit, tried, 1, float(tried), "devices",
        worse, test=test,
    )  # fmt: skip


def _amount(counts: Sequence[int]) -> float:
    """Evidence of a side, where a device that sends very many reports brings no look forward."""
    return float(sum(clipped(counts, OUTLIER * float(np.median(counts)))))


def _crashes(sides: _Sides) -> Measured:
    """Rates per device; two Poisson rates where devices are too few to be compared."""
    mine, others = sides.having(lambda s: s.hours > 0)
    tolerated = sides.gates.max_crashes_per_hour
    if not mine or (others and len(mine) < sides.needed(others)):
        return sides.lacking("crash rate", mine, others, "device hours") or Measured("crash rate", "no report yet")
    loop = max(1.0, LOOP * tolerated)
    longest = OUTLIER * float(np.median([s.hours for s in (*mine, *others)]))
    times = [[min(s.hours, longest) for s in side] for side in (mine, others)]
    counts = [
        [min(s.crashes, 3 + loop * h) for s, h in zip(side, hours, strict=True)]
        for side, hours in zip((mine, others), times, strict=True)
    ]
    (hours, old_hours), (crashes, old_crashes) = map(sum, times), map(sum, counts)
    said, before = f"{crashes:,.0f} in {hours:,.3g} device hours", f"{old_crashes:,.0f} in {old_hours:,.3g}"
    limit = f"{tolerated:g} an hour more"
    told: dict[str, Any] = {"new": said, "limit": limit, "devices": len(mine), "amount": float(hours), "unit": "device hours"}
    if not others:
        alone = f"{said}; {NOBODY}"
        return Measured("crash rate", alone, worse=bool(crashes > tolerated * hours + 3), test=lambda _: (0.0, "by itself"), **told)

    def test(level: float) -> tuple[float, str]:
        if comparison.plenty(len(mine), len(others), level):
            rates = [[c / max(1.0, h) for c, h in zip(c_, h_, strict=True)] for c_, h_ in zip(counts, times, strict=True)]
            return comparison.larger(rates[0], rates[1], level, sides.rng, 0.0)
        p = comparison.more_events(crashes, hours, old_crashes, old_hours)
        roots = [
            np.sqrt([(c + 0.375) / max(h, 1e-9) for c, h in zip(c_, h_, strict=True)]) for c_, h_ in zip(counts, times, strict=True)
        ]
        return _with_spread(p, comparison.student(*roots), "over crashes")

    worse = bool(crashes / hours - old_crashes / old_hours > tolerated)
    return Measured(
        "crash rate", f"{said}; {before} on the old one", old=before, needed=sides.needed(others), worse=worse, test=test, **told
    )


def _latency(sides: _Sides) -> Measured:
    mine, others = sides.having(lambda s: s.latency_reports)
    if (lacking := sides.lacking("p95 latency", mine, others, "reports")) is not None:
        return lacking
    limit = sides.gates.max_latency_ratio
    values, before = ([s.latency_us_p95 / s.latency_reports for s in side] for side in (mine, others))
    values, before = (clipped(side, max(OUTLIER, 4 * limit) * float(np.median(before))) for side in (values, before))
    mean, old_mean = float(np.mean(values)), float(np.mean(before))
    new, old, tolerated = f"{mean:,.0f} µs", f"{old_mean:,.0f} µs", f"{limit:g}×, or {JITTER_US:g} µs more, is tolerated"
    return Measured(
        "p95 latency", f"{new} against {old} on the old one; {tolerated}", new, old, f"{limit:g}×", len(mine), sides.needed(others),
        _amount([s.latency_reports for s in mine]), worse=mean > max(limit * old_mean, old_mean + JITTER_US),
        test=lambda level: comparison.larger(values, before, level, sides.rng, limit * max(before), True),
    )  # fmt: skip


def _confidence(sides: _Sides) -> Measured:
    mine, others = sides.having(lambda s: s.confidence is not None)
    if (lacking := sides.lacking("mean confidence", mine, others, "reports")) is not None:
        return lacking
    values, before = ([s.confidence_sum / s.answers for s in side] for side in (mine, others))
    limit, mean, old_mean = sides.gates.max_confidence_drop, float(np.mean(values)), float(np.mean(before))

    def test(level: float) -> tuple[float, str]:
        if comparison.plenty(len(mine), len(others), level):
            return comparison.larger([-c for c in values], [-c for c in before], level, sides.rng, 0.0)
        return _with_spread(*_welch(mine, others, np.negative(values), np.negative(before)))

    return Measured(
        "mean confidence", f"{mean:.3f} against {old_mean:.3f} on the old one; a drop of {limit:g} is tolerated",
        f"{mean:.3f}", f"{old_mean:.3f}", f"a drop of {limit:g}", len(mine), sides.needed(others),
        _amount([max(1, s.confidence_reports) for s in mine]), worse=old_mean - mean > limit, test=test,
    )  # fmt: skip


def _with_spread(p: float, by_spread: float | None, over: str) -> tuple[float, str]:
    """p where devices are few: over what they report, and by how far devices lie apart, where they are enough to know that.

    Both have to be small: a device that sees other things than the others do is no bundle that answers otherwise.
    """
    if by_spread is None:
        return p, f"p = {p:.2g} {over}, as devices are few"
    p = max(p, by_spread)
    return p, f"p = {p:.2g} {over} and by the spread of devices, as they are few"


def _welch(mine: Sequence[DeviceEvidence], others: Sequence[DeviceEvidence], new: Any, old: Any) -> tuple[float, float | None, str]:
    """Welch's test on reports' means: answers of one report resemble each other. `new`, `old`: devices' values."""
    from scipy.stats import ttest_ind_from_stats

    def moments(side: Sequence[DeviceEvidence]) -> tuple[float, float, int]:
        n = sum(s.confidence_reports for s in side)
        if n < MIN_REPORTS:
            return 0.0, 0.0, n
        mean = sum(s.confidence_means for s in side) / n
        variance = (sum(s.confidence_mean_squares for s in side) - n * mean**2) / (n - 1)
        return mean, math.sqrt(max(1e-12, variance)), n

    (mean, std, n), (before, spread, m) = moments(mine), moments(others)
    if min(n, m) < MIN_REPORTS:
        return 1.0, None, f"over {min(n, m)} reports (fewer than {MIN_REPORTS} of each side tell nothing)"
    p = float(ttest_ind_from_stats(mean, std, n, before, spread, m, equal_var=False, alternative="less").pvalue)
    return p, comparison.student(new, old), f"over {n:,} and {m:,} reports"


def _labels(sides: _Sides) -> Measured:
    """Total variation between pooled shares; permutation over devices, or a test over their reports where devices are few."""
    mine, others = sides.having(lambda s: sum(s.labels.values()) > 0)
    if (lacking := sides.lacking("label mix", mine, others, "reports")) is not None:
        return lacking
    table = table_of([s.labels for s in (*mine, *others)])
    ours, theirs = table[: len(mine)], table[len(mine) :]
    shift, limit = comparison.variation(ours.sum(axis=0), theirs.sum(axis=0)), sides.gates.max_label_shift
    reports = [sum(max(1, s.mixes.reports) for s in side) for side in (mine, others)]
    amount = _amount([max(1, s.mixes.reports) for s in mine])
    told: dict[str, Any] = {"devices": len(mine), "needed": sides.needed(others), "amount": amount}
    if min(reports) < MIN_REPORTS and not comparison.enough(len(mine), len(others), sides.gates.alpha):
        text = f"devices are few, and {min(reports)} reports with answers tell nothing; {MIN_REPORTS} of each side do"
        final = sides.alone and reports[1] < MIN_REPORTS
        return Measured("label mix", text + f"; {NOBODY} is left" * final, waits=not final, **told)

    def test(level: float) -> tuple[float, str]:
        if comparison.plenty(len(mine), len(others), level):
            p = comparison.shifted(ours, theirs, level, sides.rng)
            return p, f"p = {p:.2g} over devices"
        p = moved(*[[s.mixes if s.mixes.reports else LabelMixes.of(s.labels) for s in side] for side in (mine, others)])
        return _with_spread(p, _shares_apart(ours, theirs), f"over {reports[0]:,} and {reports[1]:,} reports")

    return Measured(
        "label mix", f"{shift:.1%} of the answers have moved between labels; {limit:.0%} is tolerated", f"{shift:.1%} moved",
        "", f"{limit:.0%}", worse=shift > limit, test=test, **told,
    )  # fmt: skip


def _shares_apart(ours: Any, theirs: Any) -> float | None:
    """Student's t of the label whose share differs most, for as many labels as there are (Bonferroni), two-sided.

    Of logits: a label that every answer has is further from a half of them than any spread of shares can say.
    """
    logits = [np.log((side + 0.5) / (side.sum(axis=1, keepdims=True) - side + 0.5)) for side in (ours, theirs)]
    tails = [comparison.student(logits[0][:, i], logits[1][:, i]) for i in range(ours.shape[1])]
    told = [min(p, 1 - p) for p in tails if p is not None]
    return min(1.0, 2 * min(told) * max(1, len(told) - 1)) if told else None


def _drift(sides: _Sides) -> Measured:
    limit = sides.gates.max_drift
    if not limit:
        return Measured("drift", "not looked at")
    mine, others = sides.having(lambda s: s.drift_reports)
    if (lacking := sides.lacking("drift", mine, others, "reports")) is not None:
        return lacking
    values, before = (clipped([s.drift / s.drift_reports for s in side], OUTLIER) for side in (mine, others))
    mean, old_mean = float(np.mean(values)), float(np.mean(before))
    return Measured(
        "drift", f"{mean - old_mean:+.3g} against the old one; {limit:+g} is tolerated", f"{mean:.3g}", f"{old_mean:.3g}",
        f"{limit:+g}", len(mine), sides.needed(others), _amount([s.drift_reports for s in mine]), worse=mean - old_mean > limit,
        test=lambda level: comparison.larger(values, before, level, sides.rng, max(before) + limit),
    )  # fmt: skip


def _accuracy(sides: _Sides) -> Measured:
    """Fisher's exact test, one-sided. Labels are rare: the next step waits for none."""
    mine, others = sides.having(lambda s: s.labelled > 0)
    limit = sides.gates.max_accuracy_drop
    if not mine or not others:
        return Measured("accuracy", "no labels", devices=len(mine), limit=f"a drop of {limit:.0%}", unit="labelled answers")
    (right, labelled), (before, count) = _right(mine), _right(others)
    now, then = f"{right / labelled:.1%} of {labelled:,}", f"{before / count:.1%} of {count:,}"

    def test(_: float) -> tuple[float, str]:
        p = comparison.fewer_right(right, labelled, before, count)
        return p, f"p = {p:.2g}"

    return Measured(
        "accuracy", f"{now} labelled answers against {then}; a drop of {limit:.0%} is tolerated", now, then,
        f"a drop of {limit:.0%}", len(mine), 0, float(labelled), "labelled answers",
        before / count - right / labelled > limit, test=test,
    )  # fmt: skip


def _right(rows: Sequence[DeviceEvidence]) -> tuple[int, int]:
    """Right answers, and labelled ones; each device counts for at most OUTLIER times the median."""
    most = OUTLIER * float(np.median([s.labelled for s in rows]))
    shares = [(min(s.right, s.labelled) / s.labelled, min(s.labelled, most)) for s in rows]
    return round(sum(share * n for share, n in shares)), round(sum(n for _, n in shares))
