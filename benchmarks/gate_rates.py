"""How often the gate accepts what is no better, and refuses what is: by simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeloop_pipeline.retraining import gate, paired_measure
from harness import Row, at_most

# isort: split
from two_models import MODELS

ALPHA = 5.0  # %


def gate_rates(quick: bool) -> Iterator[Row]:
    """By simulation: recordings of eight samples, whose answers err together."""
    runs, rng = 200 if quick else 2000, np.random.default_rng(0)

    def passes(recordings: int, champion: float, challenger: float) -> float:
        good = 0
        for _ in range(runs):
            hardness = rng.beta(2, 2, recordings)[:, None].repeat(8, 1).ravel() - 0.5
            draws = rng.random((2, recordings * 8))
            right_ones = [draws[i] < np.clip(level + 0.6 * hardness, 0, 1) for i, level in enumerate((champion, challenger))]
            place = np.repeat(np.arange(recordings), 8)
            same = rng.random(400) < 0.9
            home = gate.Answers(same, same, np.arange(400) // 8)
            good += gate.judge(home, gate.Answers(right_ones[0], right_ones[1], place), gate.ChallengerLimits()).passed
        return good / runs * 100

    for recordings in (10, 30, 100):
        yield at_most(
            f"no better, {recordings} recordings: accepted", passes(recordings, 0.7, 0.7), "%", 5.0 + 300 / runs**0.5 / 10
        )
    for recordings, gain in ((30, 0.1), (30, 0.2), (100, 0.1)):
        yield Row(
            f"{gain * 100:.0f} points better, {recordings} recordings: refused", 100 - passes(recordings, 0.7, 0.7 + gain), "%"
        )


def measured_gate_rates(quick: bool) -> Iterator[Row]:
    """By simulation, where the metric is no mean over samples: recordings of three. Peer: a bootstrap instead of exchanges.

    Few exchanges are enough here: their number decides how finely a p is told, and not how often chance passes.
    """
    paired_measure.SWAPS = paired_measure.MIN_SWAPS = 300
    for metric, make in MODELS.items():
        runs = 40 if quick else 200 if metric == "mAP" else 400
        error = 100 * (0.05 * 0.95 / runs) ** 0.5
        for recordings in (10, 30):
            rng, passed, by_bootstrap = np.random.default_rng(0), 0, 0
            for _ in range(runs):
                pair = make(rng, recordings)
                passed += pair.whole("field").p_better < ALPHA / 100
                by_bootstrap += bool((pair.resampled[:, 0] <= 0).mean() < ALPHA / 100)
            name = f"{metric}: no better, {recordings} recordings: accepted"
            yield at_most(name, 100 * passed / runs, "%", round(ALPHA + 2 * error, 1), 100 * by_bootstrap / runs)
        rng = np.random.default_rng(1)
        gain = {"ROC AUC": 3.0, "mean AP": 2.0}.get(metric, 0.7)
        refused = sum(make(rng, 30, gain=gain).whole("field").p_better >= ALPHA / 100 for _ in range(runs // 10))
        yield Row(f"{metric}: clearly better, 30 recordings: refused", 1000 * refused / runs, "%")
