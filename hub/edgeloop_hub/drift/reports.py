"""Drift reports of devices, stored and read."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select

from edgeloop_contract.drift import FAULTS
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.storage.schema import bundles, devices, drifts

MOST_MODELS = 50  # on a page
MOST_REPORTS = 50_000  # of the newest that one look at a model reads


def keep(connection: Connection, device: str, key: str, report: DriftReport, now: float) -> None:
    """A drift that begins in the future began now."""
    if report.since is not None:
        report = msgspec.structs.replace(report, since=min(report.since, time.time()))
    connection.execute(
        insert(drifts).values(
            device=device, key=key, at=now, model=report.model, sha256=report.sha256[:64], samples=report.samples,
            score=report.score, body=msgspec.json.encode(report).decode(),
        )
    )  # fmt: skip


def forget_old(connection: Connection, before: float) -> None:
    connection.execute(delete(drifts).where(drifts.c.at < before))


def of_model(connection: Connection, model: str, since: float, device: str = "") -> dict[str, list[tuple[float, DriftReport]]]:
    """By device, oldest first; the newest MOST_REPORTS where a fleet has sent more."""
    rows = select(drifts.c.device, drifts.c.at, drifts.c.body).where(drifts.c.model == model, drifts.c.at >= since)
    if device:
        rows = rows.where(drifts.c.device == device)
    found: dict[str, list[tuple[float, DriftReport]]] = {}
    for name, at, body in connection.execute(rows.order_by(drifts.c.at.desc()).limit(MOST_REPORTS)):
        report = _report_of(body)
        if report is not None:
            found.setdefault(name, []).append((at, report))
    return {name: mine[::-1] for name, mine in sorted(found.items())}


def _report_of(body: str) -> DriftReport | None:
    """A stored report; None where an earlier release took what is none."""
    try:
        return msgspec.json.decode(body, type=DriftReport)
    except (msgspec.MsgspecError, RecursionError):
        return None


def models(connection: Connection) -> list[str]:
    """Of which drift was reported: published ones first, as a device may say any name; no more than a page has room for."""
    published = set(connection.execute(select(bundles.c.model).distinct()).scalars())
    named = select(drifts.c.model, func.count()).where(drifts.c.model != "").group_by(drifts.c.model)
    counts = connection.execute(named.order_by(func.count().desc())).all()
    return sorted(sorted((row[0] for row in counts), key=lambda name: name not in published)[:MOST_MODELS])


def abouts(connection: Connection, model: str) -> dict[str, dict[str, Any]]:
    """What the registry knows of each of the model's bundles, by digest."""
    rows = connection.execute(select(bundles.c.sha256, bundles.c.about).where(bundles.c.model == model))
    return {sha256: json.loads(about) for sha256, about in rows}


def faulty(connection: Connection) -> list[str]:
    """Devices whose last report says that a sensor has failed or is miswired: to be repaired, and not to be learnt from."""
    last = select(drifts.c.body).where(drifts.c.device == devices.c.name).order_by(drifts.c.at.desc(), drifts.c.key).limit(1)
    rows = connection.execute(select(devices.c.name, last.correlate(devices).scalar_subquery()).order_by(devices.c.name))
    told = ((name, _report_of(body)) for name, body in rows if body is not None)
    return sorted(name for name, report in told if report is not None and report.drifting and report.cause in FAULTS)
