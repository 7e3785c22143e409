"""The table that a running agent plans its route from: as its API returns it, and for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import urllib3

from edgeloop_agent.addresses import authority, local
from edgeloop_agent.config import Config
from edgeloop_contract.errors import NetworkError, UsageError

if TYPE_CHECKING:
    from edgeloop_agent.offload.router import Router

SECONDS = 5.0


class RouteRow(msgspec.Struct, frozen=True):
    """One route of the plan's table. `tail`: the server's address, "" without one; `closed`: why it is closed, "" if open."""

    route: str
    tail: str
    device_ms: float
    wire_ms: float
    tail_ms: float
    total_ms: float
    closed: str


class LinkRow(msgspec.Struct, frozen=True):
    """The link to one tail server; None: not measured yet."""

    tail: str
    round_trip_ms: float | None
    mbit_per_second: float | None
    breaker: str


class PlanTable(msgspec.Struct, frozen=True):
    """What one model's route was planned from, as /split returns it. `replans`: changes of the route since the start."""

    model: str
    route: str
    why: str
    replans: int
    rows: list[RouteRow]
    links: list[LinkRow]


def table(router: Router) -> PlanTable:
    """The table of one model."""
    plan, tails = router.plan, router.servers.tails
    rows = [
        RouteRow(
            str(row.route), tails[row.route.tail].address if row.route.tail >= 0 else "", _milliseconds(row.device),
            _milliseconds(row.wire), _milliseconds(row.tail), _milliseconds(row.seconds), row.closed,
        )
        for row in plan.rows
    ]  # fmt: skip
    links = [
        LinkRow(
            tail.address, _rounded(tail.link.round_trip, 1e3), _rounded(tail.link.rate, 8e-6),
            f"open: {tail.breaker.why}" if tail.breaker.is_open else "closed",
        )
        for tail in tails
    ]  # fmt: skip
    return PlanTable(router.manifest.name, str(plan.route), plan.why, router.replans, rows, links)


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _rounded(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def lines(config: Config, port: int | None) -> Iterator[str]:
    """The tables of a running agent, from its API. Raises UsageError, NetworkError."""
    if not config.split.enabled:
        raise UsageError("split.enabled: work is not split here; set it, and name a server")
    address = f"http://{authority(local(config.api.host), port or config.api.port)}"
    try:
        answer = urllib3.request("GET", f"{address}/split", timeout=SECONDS, retries=False)
        tables = msgspec.json.decode(answer.data, type=list[PlanTable])
    except (urllib3.exceptions.HTTPError, msgspec.MsgspecError) as error:
        raise NetworkError(f"{address}: the agent does not answer ({error}); is it running, with its API?") from error
    for model in tables:
        yield f"{model.model}: {model.route} ({model.why}; {model.replans} changes since the start)"
        for link in model.links:
            rate, trip = _measured(link.mbit_per_second, "Mbit/s"), _measured(link.round_trip_ms, "ms")
            yield f"  {link.tail}: round trip {trip}, bandwidth {rate}, breaker {link.breaker}"
        yield f"  {'route':22}{'device ms':>10}{'wire ms':>10}{'tail ms':>10}{'all ms':>10}"
        for row in sorted(model.rows, key=lambda row: (bool(row.closed), row.total_ms)):
            times = "".join(f"{ms:10.2f}" for ms in (row.device_ms, row.wire_ms, row.tail_ms, row.total_ms))
            chosen = "  ← " if row.route == model.route else "    "
            yield f"  {row.route:22}{times}{chosen}{row.closed}"


def _measured(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:g} {unit}"
