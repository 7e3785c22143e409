"""A model's drift over the fleet, for the page and the API."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection

from edgeloop_contract.messages import DriftReport
from edgeloop_hub.drift import reports
from edgeloop_hub.drift.discoveries import shifts
from edgeloop_hub.drift.expected_accuracy import promise


def described(
    connection: Connection, model: str, seconds: float, found: dict[str, list[tuple[float, DriftReport]]] | None = None
) -> dict[str, Any]:
    """For the page and the API: devices, discoveries, the promise. `found`: that time's reports, where already read."""
    since, known = time.time() - seconds, reports.abouts(connection, model)
    found = reports.of_model(connection, model, since) if found is None else found
    read = sum(map(len, found.values()))
    made = promise(connection, found, known, since)
    return {
        "model": model,
        "reports": read,
        "oldest": min((rows[0][0] for rows in found.values()), default=None),
        "cut": read >= reports.MOST_REPORTS,
        "devices": [
            {
                "device": name, "samples": sum(r.samples for _, r in rows), "alarms": sum(r.alarms for _, r in rows),
                "score": max(r.score for _, r in rows), "drifting": rows[-1][1].drifting, "since": rows[-1][1].since,
                "cause": rows[-1][1].cause, "text": rows[-1][1].text, "faults": dict(sorted(_faults(rows).items())),
                "sha256": rows[-1][1].sha256,
            }
            for name, rows in found.items()
        ],
        "shifts": [vars(s) for s in shifts(found, known)],
        "promise": vars(made) if made else None,
    }  # fmt: skip


def _faults(rows: list[tuple[float, DriftReport]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for _, report in rows:
        for reason, n in report.faults.items():
            total[reason] = total.get(reason, 0) + n
    return total
