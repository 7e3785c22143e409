"""The plan: which part of the work is done where. A pure function of what was measured; `explain` prints what it saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeloop_contract.manifest import Coding

HYSTERESIS = 0.04  # a new way must be better by this share, so that plans do not flap
LOSSY: tuple[Coding, ...] = ("4bit", "jpeg")
SAFETY = 0.8  # of the deadline: a way that is expected to take longer is not begun


@dataclass(frozen=True)
class Way:
    """How one sample is answered: all on the device (`cut` ""), or from a cut on by a tail; without a tail by the cut's early
    answer, or, where that is not sure, by all of it here."""

    cut: str = ""
    coding: Coding = "raw"
    tail: int = -1

    def __str__(self) -> str:
        return f"{self.cut}/{self.coding if self.tail >= 0 else 'here'}" if self.cut else "device"


DEVICE = Way()


@dataclass(frozen=True)
class Crossing:
    """One cut in one coding, as this device measured it: seconds up to the packed boundary, and bytes on the wire."""

    cut: str
    coding: Coding
    device_seconds: float
    bytes: float
    agreement: float = 1.0
    narrow: bool = False  # by a learned bottleneck
    goes_on: float = 1.0  # share of samples that cross; the others have an early answer

    @property
    def lossy(self) -> bool:
        return self.narrow or self.coding in LOSSY


@dataclass(frozen=True)
class TailState:
    """One tail: what its link and its computing cost now. `seconds`: by cut. `away`: why it is not to be used."""

    address: str
    round_trip: float | None
    rate: float | None  # bytes a second
    seconds: Mapping[str, float]
    waiting_seconds: float = 0.0
    away: str = ""
    codings: frozenset[Coding] = frozenset({"raw", "deflate"})


@dataclass(frozen=True)
class Policy:
    """`seconds_per_mb`: what a megabyte sent is worth, as seconds of waiting.

    `device_weight`: of the device's seconds (heat, battery).
    """

    deadline: float
    seconds_per_mb: float = 0.0
    device_weight: float = 1.0
    least_agreement: float = 1.0
    may_send_input: bool = True
    bytes_left: float = float("inf")
    only: str = ""  # one way, asked for by name: "device", "input", "cut-2", "input/jpeg"


@dataclass(frozen=True)
class Row:
    """One line of the table: expected seconds by place, what they weigh, and why the way is not open (\"\": it is)."""

    way: Way
    device: float
    wire: float
    tail: float
    weight: float
    closed: str = ""

    @property
    def seconds(self) -> float:
        return self.device + self.wire + self.tail


@dataclass(frozen=True)
class Plan:
    way: Way
    rows: list[Row] = field(default_factory=list)
    why: str = ""

    @property
    def expected(self) -> float:
        return next((row.seconds for row in self.rows if row.way == self.way), 0.0)


def plan(
    device_seconds: float, crossings: Sequence[Crossing], tails: Sequence[TailState], policy: Policy,
    corrections: Mapping[Way, float], present: Way = DEVICE,
) -> Plan:  # fmt: skip
    """The cheapest open way. `corrections`: observed over expected seconds of ways that were taken lately."""
    whole = device_seconds * corrections.get(DEVICE, 1.0)
    closed = "" if policy.only in ("", "device") else "not asked for"
    rows = [Row(DEVICE, whole, 0.0, 0.0, whole * policy.device_weight, closed)]
    for crossing in crossings:
        if crossing.goes_on < 1 and crossing.coding == "raw":
            rows.append(_exit(crossing, whole, policy))
    for number, tail in enumerate(tails):
        rows += [_row(crossing, number, tail, policy, corrections) for crossing in crossings]
    open_ones = [row for row in rows if not row.closed]
    if not open_ones:
        return Plan(DEVICE, rows, "no way that was asked for is open")
    best = min(open_ones, key=lambda row: row.weight)
    now = next((row for row in open_ones if row.way == present), None)
    if now is not None and best.weight > (1 - HYSTERESIS) * now.weight:
        return Plan(
            present, rows, f"stays: {best.way} is not better by {HYSTERESIS:.0%}" if best.way != present else "the cheapest"
        )
    return Plan(best.way, rows, "the cheapest")


def _exit(crossing: Crossing, whole: float, policy: Policy) -> Row:
    """Here, with the cut's early answer."""
    way = Way(crossing.cut)
    seconds = crossing.device_seconds + crossing.goes_on * whole
    closed = "" if policy.only in ("", str(way)) else "not asked for"
    return Row(way, seconds, 0.0, 0.0, seconds * policy.device_weight, closed)


def _row(crossing: Crossing, number: int, tail: TailState, policy: Policy, corrections: Mapping[Way, float]) -> Row:
    way = Way(crossing.cut, crossing.coding, number)
    known = tail.round_trip is not None and tail.rate is not None
    wire = tail.round_trip + crossing.bytes / tail.rate if known else 0.0  # type: ignore[operator]
    there = tail.seconds.get(crossing.cut, 0.0) + tail.waiting_seconds
    factor = corrections.get(way, 1.0)
    device, wire, there = crossing.device_seconds * factor, wire * factor, there * factor
    behind = wire + there + policy.seconds_per_mb * crossing.bytes / 1e6
    weight = device * policy.device_weight + crossing.goes_on * behind
    return Row(way, device, wire, there, weight, _closed(crossing, tail, policy, known, device + wire + there, way))


def _closed(crossing: Crossing, tail: TailState, policy: Policy, known: bool, seconds: float, way: Way) -> str:
    if tail.away:
        return tail.away
    if not known:
        return "the link is not measured yet"
    if policy.only and policy.only not in (way.cut, str(way)):
        return "not asked for"
    if crossing.cut == "input" and not policy.may_send_input:
        return "inputs stay on the device (share)"
    named = policy.only == str(way) or (crossing.narrow and policy.only == way.cut)
    if crossing.lossy and not named:
        if policy.least_agreement >= 1:
            return "lossy (least_agreement is 1)"
        if crossing.agreement < policy.least_agreement:
            return f"changes {1 - crossing.agreement:.1%} of the answers (least_agreement)"
    if crossing.coding not in tail.codings:
        return "the tail does not know this coding"
    if crossing.bytes > policy.bytes_left:
        return "the day's bytes are spent"
    if seconds > SAFETY * policy.deadline:
        return f"expected after {SAFETY:.0%} of the deadline"
    return ""
