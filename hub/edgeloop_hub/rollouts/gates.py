"""Whether the devices on a new bundle do worse than those on the old one: rules over numbers, without I/O.

Devices, not answers, are what is compared where there are enough of them: answers of one device resemble each other, and a test
that took them for independent would stop good rollouts. With too few devices to tell anything, the answers are compared, and the
finding says so.
A gate is breached only where a difference is both larger than tolerated and too large for chance. A gate waits
where the old bundle's devices give figures and the new one's do not yet: a missing figure is not good news.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeloop_contract.rollout import GateLimits
from edgeloop_hub.rollouts import comparison
from edgeloop_hub.rollouts.comparison import clipped
from edgeloop_hub.rollouts.label_mix import MIN_REPORTS, LabelMixes, moved

MAX_LABELS = 50  # that are compared by name; the rarer ones are one
OUTLIER = 10.0  # times the median: for no more than that a device counts
LOOP = 40.0  # times the tolerated crash rate: a device that does nothing but crash


@dataclass
class DeviceEvidence:
    """One device's reports from one bundle, added up. `worked`: its model has answered something."""

    hours: float = 0.0
    crashes: float = 0.0
    latency_us_p95: float = 0.0  # the sum over `latency_reports`
    latency_reports: int = 0
    answers: int = 0
    confidence_sum: float = 0.0
    confidence_squares: float = 0.0
    labels: dict[str, int] = field(default_factory=dict)
    mixes: LabelMixes = field(default_factory=LabelMixes)
    drift: float = 0.0  # the sum over `drift_reports`
    drift_reports: int = 0
    right: int = 0
    labelled: int = 0
    worked: bool = False

    @property
    def confidence(self) -> float | None:
        return self.confidence_sum / self.answers if self.answers else None


ByDevice = dict[str, DeviceEvidence]


@dataclass(frozen=True)
class Finding:
    """One gate's verdict. `breached` None: there are no figures yet; `waits`: the next step waits until there are."""

    gate: str
    breached: bool | None
    text: str
    waits: bool = False


def judge(gates: GateLimits, new: ByDevice, old: ByDevice, failed: int, installed: int) -> list[Finding]:
    """A finding for each gate. `failed`: devices of the cohort that refused the bundle or gave it back."""
    rng = np.random.default_rng(0)
    return [
        _failures(gates, failed, installed),
        _crashes(gates, new, old, rng),
        _latency(gates, new, old, rng),
        _confidence(gates, new, old, rng),
        _labels(gates, new, old, rng),
        _drift(gates, new, old, rng),
        _accuracy(gates, new, old),
    ]


def _one_sided(gate: str, mine: Any, others: Any) -> Finding | None:
    """The finding where one side gives no figures; None where both do. The gate waits only for figures that the other side has."""
    if mine and others:
        return None
    if mine:
        return Finding(gate, None, "nobody to compare with")
    return Finding(gate, None, "no report yet", waits=bool(others))


def _failures(gates: GateLimits, failed: int, installed: int) -> Finding:
    """Exact binomial: are there more failures than tolerated?"""
    from scipy.stats import binomtest

    tried = failed + installed
    if not tried:
        return Finding("install failures", None, "no device has tried it yet", waits=True)
    text = f"{failed} of {tried} devices refused it or gave it back"
    if failed == tried:
        return Finding("install failures", True, f"{text}: all of them")
    p = binomtest(failed, tried, gates.max_install_failures, alternative="greater").pvalue
    return Finding(
        "install failures", bool(p < gates.alpha), f"{text}; {gates.max_install_failures:.0%} are tolerated (p = {p:.2g})"
    )


def _crashes(gates: GateLimits, new: ByDevice, old: ByDevice, rng: Any) -> Finding:
    """Rates per device; two Poisson rates where devices are too few to be compared."""
    mine, others = [s for s in new.values() if s.hours > 0], [s for s in old.values() if s.hours > 0]
    if not mine:
        return Finding("crash rate", None, "no report yet", waits=bool(others))
    tolerated = gates.max_crashes_per_hour
    loop = max(1.0, LOOP * tolerated)
    longest = OUTLIER * float(np.median([s.hours for s in (*mine, *others)]))
    sides = [
        ([min(s.hours, longest) for s in side], [min(s.crashes, 3 + loop * min(s.hours, longest)) for s in side])
        for side in (mine, others)
    ]
    (hours, crashes), (old_hours, old_crashes) = ((sum(h), sum(c)) for h, c in sides)
    text = f"{crashes:,.0f} in {hours:,.3g} device hours"
    if not others:
        return Finding("crash rate", bool(crashes > tolerated * hours + 3), f"{text}; nobody to compare with")
    text += f"; {old_crashes:,.0f} in {old_hours:,.3g} on the old one"
    if comparison.enough(len(mine), len(others), gates.alpha):
        rates = [[c / max(1.0, h) for h, c in zip(*side, strict=True)] for side in sides]
        p, how = comparison.larger(rates[0], rates[1], gates.alpha, rng)
    else:
        p = comparison.more_events(crashes, hours, old_crashes, old_hours)
        how = f"p = {p:.2g} over crashes, as devices are few"
    excess = crashes / hours - old_crashes / old_hours
    return Finding("crash rate", bool(excess > tolerated and p < gates.alpha), f"{text} ({how})")


def _latency(gates: GateLimits, new: ByDevice, old: ByDevice, rng: Any) -> Finding:
    mine, others = ([s.latency_us_p95 / s.latency_reports for s in side.values() if s.latency_reports] for side in (new, old))
    limit = gates.max_latency_ratio
    if not others and mine:
        return Finding("p95 latency", None, f"{np.mean(mine):,.0f} µs; nobody to compare with")
    if (finding := _one_sided("p95 latency", mine, others)) is not None:
        return finding
    most = max(OUTLIER, 4 * limit) * float(np.median(others))
    mine, others = clipped(mine, most), clipped(others, most)
    mean, before = float(np.mean(mine)), float(np.mean(others))
    p, how = comparison.larger(mine, others, gates.alpha, rng)
    text = f"{mean:,.0f} µs against {before:,.0f} µs on the old one"
    return Finding("p95 latency", mean > limit * before and p < gates.alpha, f"{text}; {limit:g}× is tolerated ({how})")


def _confidence(gates: GateLimits, new: ByDevice, old: ByDevice, rng: Any) -> Finding:
    mine, others = ([c for s in side.values() if (c := s.confidence) is not None] for side in (new, old))
    if (finding := _one_sided("mean confidence", mine, others)) is not None:
        return finding
    drop = float(np.mean(others) - np.mean(mine))
    text = f"{np.mean(mine):.3f} against {np.mean(others):.3f} on the old one"
    if comparison.enough(len(mine), len(others), gates.alpha):
        p, how = comparison.larger([-c for c in mine], [-c for c in others], gates.alpha, rng)
    else:
        p, how = _welch(new, old)
    limit = gates.max_confidence_drop
    return Finding("mean confidence", drop > limit and p < gates.alpha, f"{text}; a drop of {limit:g} is tolerated ({how})")


def _welch(new: ByDevice, old: ByDevice) -> tuple[float, str]:
    """Welch's test on answers."""
    from scipy.stats import ttest_ind_from_stats

    def moments(devices: ByDevice) -> tuple[float, float, int]:
        n = sum(s.answers for s in devices.values())
        mean = sum(s.confidence_sum for s in devices.values()) / n
        return mean, math.sqrt(max(1e-12, sum(s.confidence_squares for s in devices.values()) / n - mean**2)), n

    (mean, std, n), (before, spread, m) = moments(new), moments(old)
    if min(n, m) < 2:
        return 1.0, "too few answers"
    p = float(ttest_ind_from_stats(mean, std, n, before, spread, m, equal_var=False, alternative="less").pvalue)
    return p, f"p = {p:.2g} over answers, as devices are few"


def _labels(gates: GateLimits, new: ByDevice, old: ByDevice, rng: Any) -> Finding:
    """Total variation between pooled shares; permutation over devices, or a test over their reports where devices are few."""
    sides = [[s for s in side.values() if sum(s.labels.values()) > 0] for side in (new, old)]
    mine, others = ([s.labels for s in side] for side in sides)
    if (finding := _one_sided("label mix", mine, others)) is not None:
        return finding
    table = _table([*mine, *others])
    ours, theirs = table[: len(mine)], table[len(mine) :]
    shift = comparison.variation(ours.sum(axis=0), theirs.sum(axis=0))
    if comparison.enough(len(mine), len(others), gates.alpha):
        p = comparison.shifted(ours, theirs, rng)
        how = f"p = {p:.2g} over devices"
    else:
        reports = [sum(max(1, s.mixes.reports) for s in side) for side in sides]
        if min(reports) < MIN_REPORTS:
            text = f"devices are few, and {min(reports)} reports with answers tell nothing; {MIN_REPORTS} of each side do"
            return Finding("label mix", None, text, waits=True)
        p = moved(*[[s.mixes if s.mixes.reports else LabelMixes.of(s.labels) for s in side] for side in sides])
        how = f"p = {p:.2g} over {reports[0]} and {reports[1]} reports, as devices are few"
    limit = gates.max_label_shift
    text = f"{shift:.1%} of the answers have moved between labels; {limit:.0%} is tolerated ({how})"
    return Finding("label mix", shift > limit and p < gates.alpha, text)


def _table(rows: list[dict[str, int]]) -> Any:
    """Counts of answers: a row for each device, a column for each label. Rare labels share a column; rows are clipped."""
    devices = Counter(name for row in rows for name, count in row.items() if count > 0)
    places = {name: i for i, (name, _) in enumerate(devices.most_common(MAX_LABELS))}
    table = np.zeros((len(rows), len(places) + 1))
    for line, row in zip(table, rows, strict=True):
        for name, count in row.items():
            line[places.get(name, -1)] += count
    answers = table.sum(axis=1)
    most = OUTLIER * float(np.median(answers))
    table *= np.minimum(1.0, most / answers)[:, None]
    return table[:, table.sum(axis=0) > 0]


def _drift(gates: GateLimits, new: ByDevice, old: ByDevice, rng: Any) -> Finding:
    mine, others = (clipped([s.drift / s.drift_reports for s in side.values() if s.drift_reports], OUTLIER) for side in (new, old))
    if not gates.max_drift or not mine or not others:
        waits = bool(gates.max_drift and others and not mine)
        return Finding("drift", None, "not looked at" if not gates.max_drift else "no score reported", waits)
    p, how = comparison.larger(mine, others, gates.alpha, rng)
    more = float(np.mean(mine) - np.mean(others))
    return Finding("drift", more > gates.max_drift and p < gates.alpha, f"{more:+.3g} against the old one ({how})")


def _accuracy(gates: GateLimits, new: ByDevice, old: ByDevice) -> Finding:
    """Fisher's exact test, one-sided. Labels are rare: the next step waits for none."""
    (right, labelled), (before, others) = _right(new), _right(old)
    if not labelled or not others:
        return Finding("accuracy", None, "no labels")
    p = comparison.fewer_right(right, labelled, before, others)
    drop = before / others - right / labelled
    text = f"{right / labelled:.1%} of {labelled:,} labelled answers against {before / others:.1%} of {others:,}"
    return Finding("accuracy", drop > gates.max_accuracy_drop and p < gates.alpha, f"{text} (p = {p:.2g})")


def _right(devices: ByDevice) -> tuple[int, int]:
    """Right answers, and labelled ones; each device counts for at most OUTLIER times the median."""
    rows = [s for s in devices.values() if s.labelled > 0]
    most = OUTLIER * float(np.median([s.labelled for s in rows])) if rows else 0.0
    shares = [(min(s.right, s.labelled) / s.labelled, min(s.labelled, most)) for s in rows]
    return round(sum(share * n for share, n in shares)), round(sum(n for _, n in shares))
