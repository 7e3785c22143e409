"""Drift detection: false alarms as set, delay until a change is noticed, time a sample; beside river's (pip install river).

Every detector is calibrated to the same number of false alarms on streams without change, river's by its own threshold, one
detector a feature. Ours learns its reference from 2,000 samples, as a bundle would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edgeloop_contract.drift import Drift, Monitor
from edgeloop_pipeline.drifting import Pool, calibrate
from harness import Row, at_most, main

FEATURES = 16
PER_10K = 2.0
REFERENCE, BEFORE, LONGEST = 2000, 500, 4000
Stream = np.ndarray[Any, Any]


def mixing(rng: np.random.Generator) -> Stream:
    """Features that are correlated, each of variance 1."""
    made = np.eye(FEATURES) + 0.3 * rng.standard_normal((FEATURES, FEATURES))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def changes(rng: np.random.Generator, x: Stream) -> dict[str, Stream]:
    """The same stream after each kind of change."""
    ramp = np.minimum(np.arange(len(x)) / 1000, 1.0)[:, None]
    one, turned = np.eye(FEATURES)[3], x.copy()
    turned[:, :8] = rng.permuted(turned[:, :8], axis=0)  # correlations gone, every feature by itself as before
    return {
        "mean of one feature +0.5 sd": x + 0.5 * one, "mean of one feature +1 sd": x + one,
        "mean of one feature +3 sd": x + 3 * one,
        "mean of all +0.25 sd": x + 0.25, "variance of one ×2": np.where(one > 0, x * np.sqrt(2), x),
        "variance of all ×1.25": x * np.sqrt(1.25),
        "correlations gone": turned, "one feature, slowly to +1 sd": x + ramp * one,
    }  # fmt: skip


class Ours:
    """The monitor on plain features, without labels."""

    def __init__(self, reference: Drift) -> None:
        self.monitor = Monitor(reference, PER_10K)

    def __call__(self, row: Stream) -> bool:
        alarm = self.monitor.saw(row, 0)
        if alarm:
            self.monitor.start_anew()
        return alarm

    def reset(self) -> None:
        self.monitor.start_anew()


class Rivers:
    """One of river's detectors a feature; an alarm of any is one."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.reset()

    def reset(self) -> None:
        self.detectors = [self.make() for _ in range(FEATURES)]

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
    detector.reset()
    for row in before:
        detector(row)
    return next((i for i, row in enumerate(after, 1) if detector(row)), len(after))


def calibrated(kind: str, null: Stream) -> tuple[Rivers, float]:
    """River's detector at the threshold whose false alarms are nearest to, and not above, the setting (×1.2)."""
    from river import drift

    grid: dict[str, list[Callable[[], Any]]] = {
        "ADWIN": [lambda d=d: drift.ADWIN(delta=d) for d in np.geomspace(0.5, 1e-4, 10)],
        "Page-Hinkley": [lambda t=t: drift.PageHinkley(delta=0.1, threshold=t, min_instances=30) for t in np.geomspace(15, 80, 12)],
    }
    best: tuple[Rivers, float] | None = None
    for make in grid[kind]:
        rate = alarms_per_10k(Rivers(make), null)
        if rate <= PER_10K * 1.2 and (best is None or rate > best[1]):
            best = Rivers(make), rate
    assert best is not None, kind
    return best


def measure(quick: bool) -> Iterator[Row]:
    seeds = 3 if quick else 30
    found: dict[str, dict[str, list[float]]] = {}
    rates, micros, peers = [], [], {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        mix = mixing(rng)

        def draw(n: int, rng: np.random.Generator = rng, mix: Stream = mix) -> Stream:
            return rng.standard_normal((n, FEATURES)) @ mix.T

        sample = draw(REFERENCE)
        rows = np.arange(REFERENCE)
        ours = Ours(calibrate(Pool(sample, np.zeros(REFERENCE, dtype=np.intp), rows, rows), [f"f{i}" for i in range(FEATURES)], 1))
        null = draw(20_000)
        start = time.perf_counter()
        rates.append(alarms_per_10k(ours, null))
        micros.append((time.perf_counter() - start) / len(null) * 1e6)
        if not peers:
            peers = _peers(draw(60_000))
        for name, after in changes(rng, draw(LONGEST)).items():
            before = draw(BEFORE)
            for who, detector in {"ours": ours, **{n: d for n, (d, _) in peers.items()}}.items():
                found.setdefault(name, {}).setdefault(who, []).append(delay(detector, before, after))
    rate = float(np.mean(rates))
    yield Row(f"false alarms per 10k, set to {PER_10K:g}", rate, "", None, None, "within ±20 %", abs(rate / PER_10K - 1) <= 0.2)
    for name, (_, peer_rate) in peers.items():
        yield Row(f"  the same of river's {name}", peer_rate, "", None, None, "as near as its threshold allows")
    yield at_most("time a sample of 16 features", float(np.median(micros)), "µs", 20.0)
    for name, by in found.items():
        ours_delay = float(np.mean(by["ours"]))
        best = min((float(np.mean(v)), who) for who, v in by.items() if who != "ours") if len(by) > 1 else (float("nan"), "none")
        said = f"shortest; best peer {best[1]}"
        yield Row(f"delay, {name}", ours_delay, "samples", best[0], round(best[0] / ours_delay, 2), said, ours_delay <= best[0])
    yield Row("delay of a detector that always fires", 1.0, "samples", None, None, "10,000 false alarms per 10k")
    yield Row("delay of one that never does", float(LONGEST), "samples", None, None, "0 false alarms: the cap")


def _peers(null: Stream) -> dict[str, tuple[Rivers, float]]:
    try:
        import river  # noqa: F401
    except ImportError:
        print("river is not installed: its rows are left out (pip install river)")
        return {}
    return {kind: calibrated(kind, null) for kind in ("ADWIN", "Page-Hinkley")}


if __name__ == "__main__":
    main(measure)
