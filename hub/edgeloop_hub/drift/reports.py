"""Drift reports of devices, stored and read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, func, insert, select

from edgeloop_contract.drift import FAULTS
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.history import kept as old_history
from edgeloop_hub.history.sums import SummedDrift
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.schema import bundles, drifts

MAX_MODELS = 50  # on a page
MAX_REPORTS = 50_000  # of the newest that one look at a model reads
ReportsByDevice = dict[str, list[tuple[float, DriftReport]]]  # (time, report), oldest first


class Told(NamedTuple):
    """A drift report, and the key and time of the report that it came with."""

    device: str
    key: str
    report: DriftReport
    at: float


def keep(connection: Connection, told: Sequence[Told]) -> None:
    """Store reports. A drift that begins in the future began now."""
    now, rows = time.time(), []
    for device, key, report, at in told:
        if report.since is not None:
            report = msgspec.structs.replace(report, since=min(report.since, now))
        rows.append(
            {"device": device, "key": key, "at": at, "model": report.model, "sha256": report.sha256[:64],
             "samples": report.samples, "score": report.score, "body": msgspec.json.encode(report).decode()}
        )  # fmt: skip
    connection.execute(insert(drifts), rows)


def old(before: float) -> Old:
    return Old(drifts, drifts.c.at < before)


def of_model(connection: Connection, model: str, since: float) -> ReportsByDevice:
    """By device; the newest MAX_REPORTS where a fleet has sent more. Old ones are summed by hour or day (`SummedDrift`)."""
    rows = select(drifts.c.device, drifts.c.at, drifts.c.body).where(drifts.c.model == model, drifts.c.at >= since)
    by_device: ReportsByDevice = {}
    for name, at, body in connection.execute(rows.order_by(drifts.c.at.desc()).limit(MAX_REPORTS)):
        report = _report(body)
        if report is not None:
            by_device.setdefault(name, []).append((at, report))
    left = MAX_REPORTS - sum(map(len, by_device.values()))
    for one in old_history.of_model(connection, model, since, left):
        if one.drifts is not None:
            by_device.setdefault(one.device, []).append((one.at, one.drifts.as_report(model, one.sha256)))
    return {name: sorted(rows, key=lambda row: row[0]) for name, rows in sorted(by_device.items())}


def count_of(report: DriftReport) -> int:
    """Reports that this one stands for."""
    return report.reports if isinstance(report, SummedDrift) else 1


def _report(body: str) -> DriftReport | None:
    """A stored report; None where an earlier release stored something that is not one."""
    try:
        return msgspec.json.decode(body, type=DriftReport)
    except (msgspec.MsgspecError, RecursionError):
        return None


def models(connection: Connection) -> list[str]:
    """Models of which drift was reported: published ones first, as a device may name any; as many as a page has room for."""
    published = set(connection.execute(select(bundles.c.model).distinct()).scalars())
    named = select(drifts.c.model, func.count()).where(drifts.c.model != "").group_by(drifts.c.model)
    counts = connection.execute(named.order_by(func.count().desc())).all()
    return sorted(sorted((row[0] for row in counts), key=lambda name: name not in published)[:MAX_MODELS])


def faulty(connection: Connection) -> list[str]:
    """Devices whose last report says that a sensor has failed or is miswired: they need repair, and nobody learns from them."""
    s = device_states.c
    return list(connection.execute(select(s.device).where(s.drifting == 1, s.cause.in_(FAULTS)).order_by(s.device)).scalars())
