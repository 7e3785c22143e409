"""Drift detection: false alarms as set, delay until a change is noticed, time a sample; beside river's (pip install river).

Every detector is calibrated to the same number of false alarms on streams without change, river's by its own threshold, one
detector a feature. Ours learns its reference from 2,000 samples, as a bundle would. $ONLY: some of synthetic, real, fleet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from detectors import NO_RIVER, PER_10K, Ours, Stream, alarms_per_10k, delay, kswin, peers
from drift_fleet import fleet
from drift_streams import Case, compared, real
from edgeloop_pipeline.drift.calibration import Pool, calibrate
from harness import Row, against, at_most, each, main

FEATURES = 16
REFERENCE, BEFORE, LONGEST = 2000, 500, 4000
SLOW_SEEDS = 3  # of KSWIN, which takes five milliseconds a sample


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


def label_mix(quick: bool) -> Iterator[Row]:
    """Four kinds of samples, told apart by the answers: one becomes three times as frequent, or goes away."""
    centres = np.random.default_rng(0).normal(0, 1, (4, FEATURES))

    def draw(shares: tuple[float, ...]) -> Any:
        def drawn(rng: np.random.Generator, n: int) -> tuple[Stream, Stream]:
            kinds = rng.choice(4, n, p=shares)
            return centres[kinds] + rng.standard_normal((n, FEATURES)), kinds

        return drawn

    usual = draw((0.3, 0.3, 0.3, 0.1))
    rows = np.arange(REFERENCE)

    def case(seed: int) -> Case:
        x, kinds = usual(np.random.default_rng(seed), REFERENCE)
        return Case(
            "four kinds", Pool(x, kinds, rows, rows), [f"f{i}" for i in range(FEATURES)], 4, usual,
            {"the rare kind 3x as often": draw((0.25, 0.25, 0.2, 0.3)), "one kind gone": draw((0.45, 0.45, 0.0, 0.1))},
        )  # fmt: skip

    yield from compared(case, 2 if quick else 30, 1)


def slow_rows(found: dict[str, dict[str, list[float]]], kswin_delays: dict[str, list[int]]) -> Iterator[Row]:
    """KSWIN's delays, beside ours on the same streams."""
    for name, delays in kswin_delays.items():
        mine, theirs = float(np.mean(found[name]["ours"][: len(delays)])), float(np.mean(delays))
        said = f"delay, {name}, against KSWIN, {len(delays)} seeds"
        yield against(said, mine, "samples", theirs, "", NO_RIVER)


def synthetic(quick: bool) -> Iterator[Row]:
    seeds = 3 if quick else 30
    found: dict[str, dict[str, list[float]]] = {}
    rates, micros = [], []
    others: dict[str, Any] | None = None
    kswin_delays: dict[str, list[int]] = {}
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
        if others is None:
            others = peers(draw(60_000))
            slow = kswin(draw(20_000))
        for name, after in changes(rng, draw(LONGEST)).items():
            before = draw(BEFORE)
            if slow and seed < SLOW_SEEDS:
                kswin_delays.setdefault(name, []).append(delay(slow[0], before[-200:], after))
            for who, detector in {"ours": ours, **{n: d for n, (d, _) in others.items()}}.items():
                found.setdefault(name, {}).setdefault(who, []).append(delay(detector, before, after))
    rate = float(np.mean(rates))
    yield Row(f"false alarms per 10k, set to {PER_10K:g}", rate, "", None, None, "within ±20 %", abs(rate / PER_10K - 1) <= 0.2)
    for name, (_, peer_rate) in ((others or {}) | ({"KSWIN": slow} if slow else {})).items():
        yield Row(f"  the same of river's {name}", peer_rate, "", None, None, "as near as its threshold allows")
    yield at_most("time a sample of 16 features", float(np.median(micros)), "µs", 20.0)
    for name, by in found.items():
        ours_delay = float(np.mean(by["ours"]))
        best = min(((float(np.mean(v)), who) for who, v in by.items() if who != "ours"), default=(None, "none"))
        yield against(f"delay, {name}", ours_delay, "samples", best[0], f"shortest; best peer {best[1]}", NO_RIVER)
    yield from slow_rows(found, kswin_delays)
    yield from label_mix(quick)
    yield Row("delay of a detector that always fires", 1.0, "samples", None, None, "10,000 false alarms per 10k")
    yield Row("delay of one that never does", float(LONGEST), "samples", None, None, "0 false alarms: the cap")


def measure(quick: bool) -> Iterator[Row]:
    only = set(os.environ.get("ONLY", "synthetic real fleet").split())
    yield from each(quick, *(part for part in (synthetic, real, fleet) if part.__name__ in only))


if __name__ == "__main__":
    main(measure)
