"""What each way really took against what was expected, and the rare request that tries another way than the plan's."""

from __future__ import annotations

from edgeloop_agent.offload.planning import Plan, Way

FORGET_SECONDS = 20.0  # after which half of a correction is forgotten, so that a way is tried again
LEAST, MOST = 0.33, 3.0  # of a correction
PRIOR = 1.5  # observations: how far the model of the link is believed, where a way was not seen
MOST_COUNTED = 10.0  # observations, against which a new one counts
TRY_SHARE = 0.01  # of the time that answers take: what trying other ways may cost in all …
EARLY_SHARE, EARLY_ANSWERS = 0.1, 50  # … and more of the first ones, half of it after so many …
DEAREST_TRY = 0.5  # … and one of them, in the time of an answer
AGAIN_SECONDS = 1.0  # between two tries of the same way


class Observed:
    """Ways that are not taken are not observed either, and one slow transfer would keep a good one away for long. So while a tail
    is in use, a request tries the next best way now and then, as often as costs no more than `TRY_SHARE` (more at first).

    Called by requests and by the planning thread; a lost update costs a try.
    """

    def __init__(self) -> None:
        self._factors: dict[Way, tuple[float, float, float]] = {}  # observed over expected, of how many observations, and when
        self._tried: dict[Way, float] = {}
        self._answers, self._purse = 0, 0.0  # seconds that tries may cost
        self._trial: tuple[Way, float] | None = None  # and what it is expected to cost

    def saw(self, way: Way, took: float, expected: float, now: float) -> None:
        """A way that was taken. `expected`: seconds, with the correction of now. `now`: monotonic seconds."""
        factor, count = self._factor(way, now)
        seen = min(MOST, max(LEAST, factor * took / expected))
        self._factors[way] = (factor + (seen - factor) / (PRIOR + count + 1), min(count + 1, MOST_COUNTED), now)

    def corrections(self, now: float) -> dict[Way, float]:
        return {way: self._factor(way, now)[0] for way in list(self._factors)}

    def _factor(self, way: Way, now: float) -> tuple[float, float]:
        """And the observations behind it: what is left of both."""
        factor, count, seen = self._factors.get(way, (1.0, 0.0, now))
        left = float(0.5 ** ((now - seen) / FORGET_SECONDS))
        return 1 + (factor - 1) * left, count * left

    def way(self, plan: Plan, now: float) -> Way:
        """Of the next request: the plan's, but for the rare try."""
        if plan.way.tail < 0:
            return plan.way
        self._answers += 1
        share = TRY_SHARE + EARLY_SHARE * 0.5 ** (self._answers / EARLY_ANSWERS)
        self._purse = min(self._purse + share * plan.expected, DEAREST_TRY * plan.expected)
        trial, self._trial = self._trial, None
        if trial is None:
            return plan.way
        way, cost = trial
        self._purse -= cost
        self._tried[way] = now
        return way

    def consider(self, plan: Plan, now: float) -> None:
        """Have the next request try the best of the other ways by the same tail or none, once that can be afforded."""
        self._trial = None
        present = next((row for row in plan.rows if row.way == plan.way and row.way.tail >= 0), None)
        if present is None:
            return
        others = (
            row for row in plan.rows
            if not row.closed and row.way != plan.way and row.way.tail in (-1, plan.way.tail)
            and now - self._tried.get(row.way, float("-inf")) >= AGAIN_SECONDS
        )  # fmt: skip
        best = min(others, key=lambda row: row.weight, default=None)
        if best is not None and best.weight - present.weight <= self._purse:
            self._trial = best.way, max(0.0, best.weight - present.weight)
