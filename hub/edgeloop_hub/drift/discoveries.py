"""Features that are off on some device, over the whole fleet, at a bounded false discovery rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgeloop_contract.hub_messages import GroupVariance
from edgeloop_contract.messages import DriftReport
from edgeloop_contract.sample_messages import FeatureShift
from edgeloop_hub.drift.reports import ReportsByDevice

FALSE_DISCOVERY_RATE = 0.05  # of what is shown as drifted: the expected share that chance made (Benjamini & Hochberg 1995)
MIN_SAMPLES = 20


def shifts(reports: ReportsByDevice, variances: Mapping[str, GroupVariance]) -> list[FeatureShift]:
    """Every device and feature together, at a fleet-wide false discovery rate of 5 %. `variances`: of the bundles, by digest.

    A feature's mean varies by chance, from recording to recording and from group to group, as measured when the bundle was made.
    """
    tests = []
    for device, rows in reports.items():
        newest = rows[-1][1].sha256
        of_newest = [report for _, report in rows if report.sha256 == newest]
        variance = variances.get(newest, GroupVariance())
        n = sum(report.samples for report in of_newest)
        if n < MIN_SAMPLES:
            continue
        for feature, total in _sums(of_newest, variance.between).items():
            mean = total / n
            tests.append(FeatureShift(device, feature, mean, n, p_value(variance, feature, mean, n)))
    return discovered(tests)


def _sums(reports: list[DriftReport], known: Mapping[str, float]) -> dict[str, float]:
    """Of each feature that the reference knows: what a device makes up is no test, and hides no other's drift among many."""
    sums: dict[str, float] = {}
    for report in reports:  # one of an idle time has no shifts
        for feature, shift in report.shifts.items():
            if feature in known:
                sums[feature] = sums.get(feature, 0.0) + shift * report.samples
    return sums


def p_value(variance: GroupVariance, feature: str, mean: float, n: int) -> float:
    """The p of a feature's mean over n samples of one device, where devices differ as the reference's groups do.

    Few groups say little of how far the next one is off: Student's t with as many degrees of freedom. The mean of a device that
    gave fewer recordings, or fewer samples, than a group of the reference varies more. 1 for a feature that the reference does not
    know.
    """
    from scipy.special import stdtr

    places, samples, recordings = variance.places, variance.samples, variance.recordings
    between = variance.between.get(feature)
    if between is None:
        return 1.0
    if places:
        total = between**2 * (1 + 1 / places) + max(1 / n - places / samples, 0.0)
        if recordings:
            total += variance.within.get(feature, 0.0) ** 2 * max(samples / recordings / n - places / recordings, 0.0)
        return float(2 * stdtr(max(1, places - 1), -abs(mean) / math.sqrt(total + 1e-12)))
    if variance.within:  # every sample counts by itself
        return math.erfc(abs(mean) * math.sqrt(n / 2))
    # A bundle that does not say how many groups it was measured on: they were three at least.
    return float(2 * stdtr(2, -abs(mean) / math.sqrt(2 * between**2 + 1 / n)))


def discovered(tests: list[FeatureShift], rate: float = FALSE_DISCOVERY_RATE) -> list[FeatureShift]:
    """Benjamini and Hochberg's step-up procedure: the tests that it rejects, the smallest p first."""
    order = sorted(tests, key=lambda t: t.p)
    last = max((i for i, t in enumerate(order, 1) if t.p <= rate * i / len(order)), default=0)
    return order[:last]
