"""Features that are off on some device, over the whole fleet, at a bounded false discovery rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeloop_contract.messages import DriftReport

FALSE_SHARE = 0.05  # of what is shown as drifted: the expected share that chance made (Benjamini & Hochberg 1995)
LEAST_SAMPLES = 20


@dataclass(frozen=True)
class Shift:
    """One feature on one device that is off by more than chance and the usual differences between devices explain."""

    device: str
    feature: str
    shift: float
    samples: int
    p: float


def shifts(found: dict[str, list[tuple[float, DriftReport]]], known: dict[str, dict[str, Any]]) -> list[Shift]:
    """Every device and feature together, at a fleet-wide false discovery rate of 5 %.

    A feature's mean strays by chance, from recording to recording and from place to place, as measured when the bundle was made.
    """
    tests = []
    for device, rows in found.items():
        newest = rows[-1][1].sha256
        mine = [r for _, r in rows if r.sha256 == newest]
        about = known.get(newest, {})
        n = sum(r.samples for r in mine)
        if n < LEAST_SAMPLES:
            continue
        for feature in dict.fromkeys(name for r in mine for name in r.shifts):  # a report of an idle time has none
            mean = sum(r.shifts.get(feature, 0.0) * r.samples for r in mine) / n
            tests.append(Shift(device, feature, mean, n, chance(about, feature, mean, n)))
    return discovered(tests)


def chance(about: dict[str, Any], feature: str, mean: float, n: int) -> float:
    """The p of a feature's mean over n samples of one device, where devices differ as the reference's places do.

    Few places tell little of how far the next one is off: Student's t with as many degrees of freedom. A device that gave fewer
    recordings, or fewer samples, than a place of the reference strays farther. 1 for a feature that the reference does not know.
    """
    from scipy.special import stdtr

    told = about.get("straying", {})
    places, samples, recordings = told.get("places", 0), told.get("samples", 0), told.get("recordings", 0)
    between = (told.get("between") or about.get("between", {})).get(feature)
    if between is None:
        return 1.0
    if places:
        variance = between**2 * (1 + 1 / places) + max(1 / n - places / samples, 0.0)
        if recordings:
            variance += told["within"].get(feature, 0.0) ** 2 * max(samples / recordings / n - places / recordings, 0.0)
        return float(2 * stdtr(max(1, places - 1), -abs(mean) / math.sqrt(variance + 1e-12)))
    if told.get("within"):  # every sample is by itself
        return math.erfc(abs(mean) * math.sqrt(n / 2))
    # a bundle that does not say of how many places it was told: they were three at least
    return float(2 * stdtr(2, -abs(mean) / math.sqrt(2 * between**2 + 1 / n)))


def discovered(tests: list[Shift], share: float = FALSE_SHARE) -> list[Shift]:
    """Benjamini and Hochberg's step-up procedure: those that stand, the surest first."""
    order = sorted(tests, key=lambda t: t.p)
    last = max((i for i, t in enumerate(order, 1) if t.p <= share * i / len(order)), default=0)
    return order[:last]
