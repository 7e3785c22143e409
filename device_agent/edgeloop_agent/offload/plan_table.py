"""The table a running agent planned from: as its API tells it, and for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import urllib3

from edgeloop_agent.addresses import authority, local
from edgeloop_agent.config import Config
from edgeloop_contract.errors import NetworkError, UsageError

if TYPE_CHECKING:
    from edgeloop_agent.offload.router import Router

SECONDS = 5.0


def table(router: Router) -> dict[str, Any]:
    """What /split answers of one model."""
    made, tails = router.plan, router.servers.tails
    rows = [
        {
            "route": str(row.route), "tail": tails[row.route.tail].address if row.route.tail >= 0 else "",
            "device_ms": round(row.device * 1e3, 3), "wire_ms": round(row.wire * 1e3, 3), "tail_ms": round(row.tail * 1e3, 3),
            "total_ms": round(row.seconds * 1e3, 3), "closed": row.closed,
        }
        for row in made.rows
    ]  # fmt: skip
    links = [
        {
            "tail": tail.address, "round_trip_ms": _rounded(tail.link.round_trip, 1e3),
            "mbit_per_second": _rounded(tail.link.rate, 8e-6),
            "breaker": f"open: {tail.breaker.why}" if tail.breaker.is_open else "closed",
        }
        for tail in tails
    ]  # fmt: skip
    return {
        "model": router.manifest.name, "route": str(made.route), "why": made.why, "replans": router.replans, "rows": rows,
        "links": links,
    }  # fmt: skip


def _rounded(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def lines(config: Config, port: int | None) -> Iterator[str]:
    """Asks the agent's own API. Raises UsageError, NetworkError."""
    if not config.split.enabled:
        raise UsageError("split.enabled: work is not split here; set it, and name a server")
    address = f"http://{authority(local(config.api.host), port or config.api.port)}"
    try:
        answer = urllib3.request("GET", f"{address}/split", timeout=SECONDS, retries=False)
        found = msgspec.json.decode(answer.data, type=list[dict[str, Any]])
    except (urllib3.exceptions.HTTPError, msgspec.MsgspecError) as error:
        raise NetworkError(f"{address}: the agent does not answer ({error}); is it running, with its API?") from error
    for model in found:
        yield f"{model['model']}: {model['route']} ({model['why']}; {model['replans']} changes since the start)"
        for link in model["links"]:
            rate, trip = (
                "not measured" if link[k] is None else f"{link[k]:g} {unit}"
                for k, unit in (("mbit_per_second", "Mbit/s"), ("round_trip_ms", "ms"))
            )
            yield f"  {link['tail']}: round trip {trip}, bandwidth {rate}, breaker {link['breaker']}"
        yield f"  {'route':22}{'device ms':>10}{'wire ms':>10}{'tail ms':>10}{'all ms':>10}"
        for row in sorted(model["rows"], key=lambda row: (bool(row["closed"]), row["total_ms"])):
            times = "".join(f"{row[k]:10.2f}" for k in ("device_ms", "wire_ms", "tail_ms", "total_ms"))
            chosen = "  ← " if row["route"] == model["route"] else "    "
            yield f"  {row['route']:22}{times}{chosen}{row['closed']}"
