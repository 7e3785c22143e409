"""A model's drift over the fleet, for the page and the API."""

from __future__ import annotations

import time
from collections import Counter

from sqlalchemy import Connection

from edgeloop_contract.messages import DriftReport
from edgeloop_contract.sample_messages import DeviceDrift, DriftSummary
from edgeloop_hub.drift import reports
from edgeloop_hub.drift.discoveries import shifts
from edgeloop_hub.drift.expected_accuracy import expected_accuracy
from edgeloop_hub.updates import registry

MAX_FAULTS = 50  # kinds of one device


def summary(connection: Connection, model: str, seconds: float, by_device: reports.ReportsByDevice | None = None) -> DriftSummary:
    """Of the last `seconds`: devices, discoveries, expected accuracy. `by_device`: that time's reports, where already read."""
    since, summaries = time.time() - seconds, registry.summaries(connection, model)
    by_device = reports.of_model(connection, model, since) if by_device is None else by_device
    count = sum(map(len, by_device.values()))
    return DriftSummary(
        model=model,
        reports=sum(reports.count_of(report) for rows in by_device.values() for _, report in rows),
        oldest=min((rows[0][0] for rows in by_device.values()), default=None),
        cut=count >= reports.MAX_REPORTS,
        devices=[_device(name, [report for _, report in rows]) for name, rows in by_device.items()],
        shifts=shifts(by_device, {sha256: summary.group_variance for sha256, summary in summaries.items()}),
        expected_accuracy=expected_accuracy(connection, by_device, summaries, since),
    )


def _device(name: str, oldest_first: list[DriftReport]) -> DeviceDrift:
    last = oldest_first[-1]
    faults: Counter[str] = Counter()
    for report in oldest_first:
        faults.update(report.faults)
    return DeviceDrift(
        device=name, samples=sum(r.samples for r in oldest_first), alarms=sum(r.alarms for r in oldest_first),
        score=max(r.score for r in oldest_first), drifting=last.drifting, since=last.since, cause=last.cause, text=last.text,
        faults=dict(sorted(faults.most_common(MAX_FAULTS))), sha256=last.sha256,
    )  # fmt: skip
