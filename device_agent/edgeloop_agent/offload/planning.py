"""The plan: which part of a model runs where. A pure function of measurements; `edgeloop-agent explain` prints its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeloop_contract.manifest import Coding

HYSTERESIS = 0.04  # a new route must be better by this share, so that plans do not flap
LOSSY: tuple[Coding, ...] = ("4bit", "jpeg")
SAFETY = 0.8  # of the deadline: a route that is expected to take longer is not begun


@dataclass(frozen=True)
class Route:
    """How one sample is answered.

    `cut` "": by the whole model on the device. With a tail: by the head here and the tail there. Without a tail: by the cut's early
    answer, or by the whole model here where that answer is not confident enough.
    """

    cut: str = ""
    coding: Coding = "raw"
    tail: int = -1

    def __str__(self) -> str:
        return f"{self.cut}/{self.coding if self.tail >= 0 else 'here'}" if self.cut else "device"


DEVICE = Route()


@dataclass(frozen=True)
class Crossing:
    """One cut in one coding, as this device measured it: seconds up to the packed boundary, and bytes on the wire."""

    cut: str
    coding: Coding
    device_seconds: float
    bytes: float
    agreement: float = 1.0
    bottleneck: bool = False  # by a learned bottleneck
    continue_share: float = 1.0  # share of samples that cross; the others have an early answer

    @property
    def lossy(self) -> bool:
        return self.bottleneck or self.coding in LOSSY


@dataclass(frozen=True)
class TailState:
    """One tail server: its link and its computing times now. `seconds`: by cut. `unavailable`: why it must not be used."""

    address: str
    round_trip: float | None
    rate: float | None  # bytes a second
    seconds: Mapping[str, float]
    waiting_seconds: float = 0.0
    unavailable: str = ""
    codings: frozenset[Coding] = frozenset({"raw", "deflate"})


@dataclass(frozen=True)
class RoutePolicy:
    """Limits and weights of a plan. `seconds_per_mb`: waiting time that a saved megabyte is worth.

    `device_weight`: weight of the device's own time (heat, battery). Times in seconds.
    """

    deadline: float
    seconds_per_mb: float = 0.0
    device_weight: float = 1.0
    min_agreement: float = 1.0
    may_send_input: bool = True
    bytes_left: float = float("inf")
    only: str = ""  # one route, asked for by name: "device", "input", "cut-2", "input/jpeg"


@dataclass(frozen=True)
class RouteEstimate:
    """One line of the table: expected seconds by place, their weighted sum, and why the route is closed (\"\": it is open)."""

    route: Route
    device: float
    wire: float
    tail: float
    weight: float
    closed: str = ""

    @property
    def seconds(self) -> float:
        return self.device + self.wire + self.tail


@dataclass(frozen=True)
class RoutePlan:
    route: Route
    rows: list[RouteEstimate] = field(default_factory=list)
    why: str = ""

    @property
    def expected(self) -> float:
        return next((row.seconds for row in self.rows if row.route == self.route), 0.0)


def plan_route(
    device_seconds: float, crossings: Sequence[Crossing], tails: Sequence[TailState], policy: RoutePolicy,
    corrections: Mapping[Route, float], present: Route = DEVICE,
) -> RoutePlan:  # fmt: skip
    """The cheapest open route. `corrections`: observed over expected seconds of routes that were taken lately."""
    whole = device_seconds * corrections.get(DEVICE, 1.0)
    closed = "" if policy.only in ("", "device") else "not asked for"
    rows = [RouteEstimate(DEVICE, whole, 0.0, 0.0, whole * policy.device_weight, closed)]
    for crossing in crossings:
        if crossing.continue_share < 1 and crossing.coding == "raw":
            rows.append(_exit(crossing, whole, policy))
    for number, tail in enumerate(tails):
        rows += [_row(crossing, number, tail, policy, corrections) for crossing in crossings]
    open_ones = [row for row in rows if not row.closed]
    if not open_ones:
        return RoutePlan(DEVICE, rows, "no route that was asked for is open")
    best = min(open_ones, key=lambda row: row.weight)
    now = next((row for row in open_ones if row.route == present), None)
    if now is not None and best.weight > (1 - HYSTERESIS) * now.weight:
        return RoutePlan(
            present, rows, f"stays: {best.route} is not better by {HYSTERESIS:.0%}" if best.route != present else "the cheapest"
        )
    return RoutePlan(best.route, rows, "the cheapest")


def _exit(crossing: Crossing, whole: float, policy: RoutePolicy) -> RouteEstimate:
    """The route that ends here, with the cut's early answer."""
    route = Route(crossing.cut)
    seconds = crossing.device_seconds + crossing.continue_share * whole
    closed = "" if policy.only in ("", str(route)) else "not asked for"
    return RouteEstimate(route, seconds, 0.0, 0.0, seconds * policy.device_weight, closed)


def _row(
    crossing: Crossing, number: int, tail: TailState, policy: RoutePolicy, corrections: Mapping[Route, float]
) -> RouteEstimate:
    route = Route(crossing.cut, crossing.coding, number)
    known = tail.round_trip is not None and tail.rate is not None
    wire = tail.round_trip + crossing.bytes / tail.rate if known else 0.0  # type: ignore[operator]
    there = tail.seconds.get(crossing.cut, 0.0) + tail.waiting_seconds
    factor = corrections.get(route, 1.0)
    device, wire, there = crossing.device_seconds * factor, wire * factor, there * factor
    behind = wire + there + policy.seconds_per_mb * crossing.bytes / 1e6
    weight = device * policy.device_weight + crossing.continue_share * behind
    return RouteEstimate(route, device, wire, there, weight, _closed(crossing, tail, policy, known, device + wire + there, route))


def _closed(crossing: Crossing, tail: TailState, policy: RoutePolicy, known: bool, seconds: float, route: Route) -> str:
    if tail.unavailable:
        return tail.unavailable
    if not known:
        return "the link is not measured yet"
    if policy.only and policy.only not in (route.cut, str(route)):
        return "not asked for"
    if crossing.cut == "input" and not policy.may_send_input:
        return "inputs stay on the device (share)"
    named = policy.only == str(route) or (crossing.bottleneck and policy.only == route.cut)
    if crossing.lossy and not named:
        if policy.min_agreement >= 1:
            return "lossy (min_agreement is 1)"
        if crossing.agreement < policy.min_agreement:
            return f"changes {1 - crossing.agreement:.1%} of the answers (min_agreement)"
    if crossing.coding not in tail.codings:
        return "the tail does not know this coding"
    if crossing.bytes > policy.bytes_left:
        return "the byte limit of the day is reached"
    if seconds > SAFETY * policy.deadline:
        return f"expected after {SAFETY:.0%} of the deadline"
    return ""
