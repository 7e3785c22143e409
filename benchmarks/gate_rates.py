"""How often the gate accepts what is no better, and refuses what is: by simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeloop_pipeline.retraining import gate, paired_measure
from harness import Row, at_most

# isort: split
from two_models import MODELS

ALPHA = 5.0  # %


class _Kept:
    """Answers whose comparison is made once."""

    recordings, metric, lacking = np.zeros(0), "accuracy", ""

    def __init__(self, answers: gate.Answers) -> None:
        self._whole = answers.whole("test set")

    def whole(self, name: str) -> gate.Comparison:
        return self._whole

    def slices(self, where: str, limits: gate.ChallengerLimits) -> list[gate.Comparison]:
        return []


def gate_rates(quick: bool) -> Iterator[Row]:
    """By simulation: recordings of eight samples, whose answers err together.

    Fewer flips are enough here, and no intervals: the verdict asks for neither. Both models answer alike on the test set, which is
    then the same comparison each time.
    """
    runs, rng = 100 if quick else 1000, np.random.default_rng(0)
    gate.FLIPS, gate.RESAMPLES = 1000, 10
    same = rng.random(400) < 0.9
    home = _Kept(gate.Answers(same, same, np.arange(400) // 8))

    def passes(recordings: int, champion: float, challenger: float) -> float:
        good = 0
        for _ in range(runs):
            hardness = rng.beta(2, 2, recordings)[:, None].repeat(8, 1).ravel() - 0.5
            draws = rng.random((2, recordings * 8))
            right_ones = [draws[i] < np.clip(level + 0.6 * hardness, 0, 1) for i, level in enumerate((champion, challenger))]
            place = np.repeat(np.arange(recordings), 8)
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
        runs = (10 if quick else 50) if metric == "mAP" else 40 if quick else 200
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
        few = max(10, runs // 10)
        refused = sum(make(rng, 30, gain=gain).whole("field").p_better >= ALPHA / 100 for _ in range(few))
        yield Row(f"{metric}: clearly better, 30 recordings: refused", 100 * refused / few, "%")
