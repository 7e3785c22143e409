"""Measured against expected time of each route, and the rare request that explores another route than the planned one."""

from __future__ import annotations

from edgeloop_agent.offload.planning import Route, RoutePlan

CORRECTION_HALF_LIFE_SECONDS = 20.0  # so that a route that was slow once is tried again
MIN_CORRECTION, MAX_CORRECTION = 0.33, 3.0  # bounds of a correction
PRIOR_OBSERVATIONS = 1.5  # weight of the link's model against measurements of a route
MAX_OBSERVATIONS = 10.0  # weight of earlier measurements against a new one
EXPLORATION_SHARE = 0.01  # exploration budget, as a share of the time of all answers …
EARLY_SHARE, EARLY_ANSWERS = 0.1, 50  # … more for the first answers: half of it after so many …
MAX_TRIAL_SHARE = 0.5  # … and the most that one trial may cost, as a share of one answer's time
RETRY_SECONDS = 1.0  # between two trials of the same route


class RouteObservations:
    """Corrections of the planned times, and trials of other routes.

    A route that is not taken is not measured either: one slow transfer would keep a good route out of use for long. So while a tail
    is in use, a request tries the next best route now and then, within an exploration budget of `EXPLORATION_SHARE` (first more).
    Called by requests and by the planning thread; a lost update costs one trial.
    """

    def __init__(self) -> None:
        self._factors: dict[
            Route, tuple[float, float, float]
        ] = {}  # measured over expected, number of measurements, time of the last
        self._tried: dict[Route, float] = {}
        self._answers, self._budget_seconds = 0, 0.0  # seconds that trials may cost
        self._next_trial: tuple[Route, float] | None = None  # and the seconds that it is expected to cost

    def observe(self, route: Route, took: float, expected: float, now: float) -> None:
        """Record a route that was taken. `took`, `expected`: seconds, corrected. `now`: monotonic seconds."""
        factor, count = self._factor(route, now)
        seen = min(MAX_CORRECTION, max(MIN_CORRECTION, factor * took / expected))
        self._factors[route] = (factor + (seen - factor) / (PRIOR_OBSERVATIONS + count + 1), min(count + 1, MAX_OBSERVATIONS), now)

    def corrections(self, now: float) -> dict[Route, float]:
        """Measured over expected time of each route that was taken lately."""
        return {route: self._factor(route, now)[0] for route in list(self._factors)}

    def _factor(self, route: Route, now: float) -> tuple[float, float]:
        """The correction and the number of measurements behind it, both decayed to `now`."""
        factor, count, seen = self._factors.get(route, (1.0, 0.0, now))
        left = float(0.5 ** ((now - seen) / CORRECTION_HALF_LIFE_SECONDS))
        return 1 + (factor - 1) * left, count * left

    def next_route(self, plan: RoutePlan, now: float) -> Route:
        """The route of the next request: the planned one, except for a rare trial."""
        if plan.route.tail < 0:
            return plan.route
        self._answers += 1
        share = EXPLORATION_SHARE + EARLY_SHARE * 0.5 ** (self._answers / EARLY_ANSWERS)
        self._budget_seconds = min(self._budget_seconds + share * plan.expected, MAX_TRIAL_SHARE * plan.expected)
        trial, self._next_trial = self._next_trial, None
        if trial is None:
            return plan.route
        route, cost = trial
        self._budget_seconds -= cost
        self._tried[route] = now
        return route

    def consider(self, plan: RoutePlan, now: float) -> None:
        """Let the next request try the best other route (by the same tail, or by none) as soon as the budget allows it."""
        self._next_trial = None
        present = next((row for row in plan.rows if row.route == plan.route and row.route.tail >= 0), None)
        if present is None:
            return
        others = (
            row for row in plan.rows
            if not row.closed and row.route != plan.route and row.route.tail in (-1, plan.route.tail)
            and now - self._tried.get(row.route, float("-inf")) >= RETRY_SECONDS
        )  # fmt: skip
        best = min(others, key=lambda row: row.weight, default=None)
        if best is not None and best.weight - present.weight <= self._budget_seconds:
            self._next_trial = best.route, max(0.0, best.weight - present.weight)
