"""The detectors: ours; and river's, one a feature, each at the threshold that gives it as many false alarms as ours is set to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from edgeloop_contract.drift import Drift, Monitor

PER_10K = 2.0
Stream = np.ndarray[Any, Any]
NO_RIVER = "river is not installed (pip install river)"


class Ours:
    """The monitor. `labelled`: a row begins with the number of the answer; else no answers are told apart."""

    def __init__(self, reference: Drift, labelled: bool = False, per_10k: float = PER_10K) -> None:
        self.monitor, self.labelled = Monitor(reference, per_10k), labelled

    def __call__(self, row: Stream) -> bool:
        alarm = self.monitor.observe(row[1:], int(row[0])) if self.labelled else self.monitor.observe(row, 0)
        if alarm:
            self.monitor.reset()
        return alarm

    def reset(self) -> None:
        self.monitor.reset()


class Rivers:
    """One detector a feature; an alarm of any is one."""

    def __init__(self, make: Callable[[], Any], features: int) -> None:
        self.make, self.features = make, features
        self.reset()

    def reset(self) -> None:
        self.detectors = [self.make() for _ in range(self.features)]

    def __call__(self, row: Stream) -> bool:
        alarm = False
        for value, detector in zip(row.tolist(), self.detectors, strict=True):
            detector.update(value)
            alarm |= detector.drift_detected
        if alarm:
            self.reset()
        return alarm


def alarms_per_10k(detector: Any, stream: Stream) -> float:
    return sum(detector(row) for row in stream) / len(stream) * 1e4


def delay(detector: Any, before: Stream, after: Stream) -> int:
    """Samples of `after` until it is noticed; all of them where it is not."""
    detector.reset()
    for row in before:
        detector(row)
    return next((i for i, row in enumerate(after, 1) if detector(row)), len(after))


def peers(null: Stream) -> dict[str, tuple[Rivers, float]]:
    """Name → (detector, its false alarms): the nearest to the setting (and not above it by a fifth), else the fewest."""
    try:
        from river import drift
    except ImportError:
        print(NO_RIVER, file=sys.stderr)
        return {}
    grids: dict[str, list[Callable[[], Any]]] = {
        "ADWIN": [lambda d=d: drift.ADWIN(delta=d) for d in np.geomspace(0.5, 1e-6, 14)],
        "Page-Hinkley": [
            lambda t=t: drift.PageHinkley(delta=0.1, threshold=t, min_instances=30) for t in np.geomspace(15, 640, 18)
        ],
    }
    found = {}
    for kind, grid in grids.items():
        rates = [(alarms_per_10k(Rivers(make, null.shape[1]), null), i) for i, make in enumerate(grid)]
        fitting = [r for r in rates if r[0] <= PER_10K * 1.2]
        rate, best = max(fitting, key=lambda r: r[0]) if fitting else min(rates)
        found[kind] = Rivers(grid[best], null.shape[1]), rate
    return found


def kswin(null: Stream) -> tuple[Rivers, float] | None:
    """KSWIN, calibrated on the first feature alone: it takes a third of a millisecond a value."""
    try:
        from river import drift
    except ImportError:
        return None
    features, best = null.shape[1], None
    for alpha in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6):
        make = lambda a=alpha: drift.KSWIN(alpha=a, window_size=100, stat_size=30, seed=0)  # noqa: E731
        rate = alarms_per_10k(Rivers(make, 1), null[:, :1]) * features
        if rate <= PER_10K * 1.2:
            return Rivers(make, features), rate
        best = Rivers(make, features), rate
    return best
