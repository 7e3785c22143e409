"""The table a running agent planned from, for a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import urllib3

from edgeloop_agent.config import Config
from edgeloop_contract.errors import NetworkError, UsageError

SECONDS = 5.0


def lines(config: Config, port: int | None) -> Iterator[str]:
    """Asks the agent's own API. Raises UsageError, NetworkError."""
    if not config.split.enabled:
        raise UsageError("split.enabled: work is not split here; set it, and name a server")
    address = f"http://{config.api.host}:{port or config.api.port}"
    try:
        answer = urllib3.request("GET", f"{address}/split", timeout=SECONDS, retries=False)
        found = msgspec.json.decode(answer.data, type=list[dict[str, Any]])
    except (urllib3.exceptions.HTTPError, msgspec.MsgspecError) as error:
        raise NetworkError(f"{address}: the agent does not answer ({error}); is it running, with its API?") from error
    for model in found:
        yield f"{model['model']}: {model['way']} ({model['why']}; {model['replans']} changes since the start)"
        for link in model["links"]:
            rate, trip = (
                "not measured" if link[k] is None else f"{link[k]:g} {unit}"
                for k, unit in (("mbit_per_second", "Mbit/s"), ("round_trip_ms", "ms"))
            )
            yield f"  {link['tail']}: round trip {trip}, bandwidth {rate}, breaker {link['breaker']}"
        yield f"  {'way':18}{'device ms':>10}{'wire ms':>10}{'tail ms':>10}{'all ms':>10}"
        for row in sorted(model["rows"], key=lambda row: (bool(row["closed"]), row["total_ms"])):
            times = "".join(f"{row[k]:10.2f}" for k in ("device_ms", "wire_ms", "tail_ms", "total_ms"))
            chosen = "  ← " if row["way"] == model["way"] else "    "
            yield f"  {row['way']:18}{times}{chosen}{row['closed']}"
