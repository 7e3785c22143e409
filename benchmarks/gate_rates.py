"""How often the gate accepts what is no better, and refuses what is: by simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeloop_pipeline.retraining import gate
from harness import Row, at_most


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
