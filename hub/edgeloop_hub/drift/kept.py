"""A device's drift of the last half day to day, kept as its reports come: sums, and the features that may be discoveries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, Integer, cast, delete, func, insert, select

from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import BINS
from edgeloop_contract.hub_messages import GroupVariance
from edgeloop_contract.messages import DriftReport
from edgeloop_contract.sample_messages import FeatureShift
from edgeloop_hub.drift.discoveries import FALSE_DISCOVERY_RATE, MIN_SAMPLES, p_value
from edgeloop_hub.drift.expected_accuracy import MAX_ANSWERS
from edgeloop_hub.history import kept as history
from edgeloop_hub.storage.fleet_tables import device_drifts, drift_shifts
from edgeloop_hub.storage.schema import drifts
from edgeloop_hub.updates import registry

HALF_SECONDS = 43_200.0  # the sums are of two halves; the older one goes when a third begins
STALE_SECONDS = 2 * 86_400.0  # since a device's last report; then it is not shown, and not tested
MAX_FAULTS, MAX_FEATURES = 50, 100
BIN_COLUMNS = [device_drifts.c[f"bin_{number}"] for number in range(BINS)]


class Half(msgspec.Struct):
    """Sums of the reports since `begin`. `shifts`: of each feature's shift times the samples of its report."""

    begin: float
    samples: int = 0
    alarms: int = 0
    score: float = 0.0
    shifts: dict[str, float] = {}
    confidence: list[int] = []
    faults: dict[str, int] = {}

    def add(self, report: DriftReport) -> None:
        self.samples += report.samples
        self.alarms += report.alarms
        self.score = max(self.score, report.score)
        for name, shift in report.shifts.items():
            if name in self.shifts or len(self.shifts) < MAX_FEATURES:
                self.shifts[name] = self.shifts.get(name, 0.0) + shift * report.samples
        if len(report.confidence) == BINS:
            before = self.confidence or [0] * BINS
            self.confidence = [a + min(b, MAX_ANSWERS) for a, b in zip(before, report.confidence, strict=True)]
        for reason, count in report.faults.items():
            if reason in self.faults or len(self.faults) < MAX_FAULTS:
                self.faults[reason] = self.faults.get(reason, 0) + count


def halves_of(body: str) -> list[Half]:
    try:
        return msgspec.json.decode(body, type=list[Half])
    except msgspec.MsgspecError:  # of another release
        return []


def keep(connection: Connection, reports: Mapping[str, DriftReport], now: float) -> None:
    """Add these devices' reports. What was reported of another bundle no longer counts."""
    mine = device_drifts.c.device.in_(reports.keys())
    known = {row.device: row for row in connection.execute(select(device_drifts).where(mine))}
    sums, discoverable = [], list[dict[str, Any]]()
    for device, report in sorted(reports.items()):
        halves = _added(known.get(device), report, now)
        shifts = _tested(registry.group_variance_of(connection, report.sha256), device, halves)
        sums.append(_row(device, report, halves, len(shifts), now))
        discoverable += [
            {"device": device, "feature": t.feature, "model": report.model, "at": now, "shift": t.shift, "p": t.p,
             "samples": _whole(t.samples)} for t in shifts if t.p <= FALSE_DISCOVERY_RATE  # no other can ever be discovered
        ]  # fmt: skip
    connection.execute(delete(device_drifts).where(mine))
    connection.execute(insert(device_drifts), sums)
    connection.execute(delete(drift_shifts).where(drift_shifts.c.device.in_(reports.keys())))
    if discoverable:
        connection.execute(insert(drift_shifts), discoverable)


def _added(row: Any, report: DriftReport, now: float) -> list[Half]:
    """The halves that count, with one more report. `row`: what was kept before, or None."""
    halves = halves_of(row.body) if row is not None and row.sha256 == report.sha256[:64] else []
    halves = [half for half in halves if now - half.begin < 2 * HALF_SECONDS][-2:]
    if not halves or now - halves[-1].begin >= HALF_SECONDS:
        halves = [*halves[-1:], Half(now)]
    halves[-1].add(report)
    return halves


def _row(device: str, report: DriftReport, halves: list[Half], tests: int, now: float) -> dict[str, Any]:
    bins = np.sum([half.confidence for half in halves if half.confidence] or [[0] * BINS], axis=0)
    return {
        "device": device, "model": report.model, "sha256": report.sha256[:64], "at": now,
        "samples": _whole(sum(h.samples for h in halves)), "alarms": _whole(sum(h.alarms for h in halves)),
        "score": max(h.score for h in halves), "drifting": int(report.drifting),
        "since": min(report.since, now) if report.since is not None else None, "cause": report.cause, "text": report.text,
        "tests": tests, "body": msgspec.json.encode(halves).decode(),
        **{f"bin_{i}": _whole(int(count)) for i, count in enumerate(bins)},
    }  # fmt: skip


def _whole(number: int) -> int:
    """What a column holds."""
    return min(number, 2**62)


def _tested(variance: GroupVariance, device: str, halves: list[Half]) -> list[FeatureShift]:
    samples = sum(half.samples for half in halves)
    if samples < MIN_SAMPLES:
        return []
    sums: Counter[str] = Counter()
    for half in halves:
        sums.update({name: total for name, total in half.shifts.items() if name in variance.between})  # made-up ones are no test
    return [
        FeatureShift(device, name, total / samples, samples, p_value(variance, name, total / samples, samples))
        for name, total in sums.items()
    ]


def discoveries(connection: Connection, model: str, now: float, limit: int) -> tuple[list[FeatureShift], int]:
    """The smallest p of the fleet by Benjamini and Hochberg's procedure, as `discoveries.shifts`; and how many there are in all."""
    fresh = now - STALE_SECONDS
    tests = select(func.sum(device_drifts.c.tests)).where(device_drifts.c.model == model, device_drifts.c.at > fresh)
    count = connection.execute(tests).scalar() or 0
    mine = (drift_shifts.c.model == model, drift_shifts.c.at > fresh)
    rank = func.row_number().over(order_by=drift_shifts.c.p).label("place")
    ranked = select(drift_shifts.c.p, rank).where(*mine).subquery()
    rejected = select(func.max(ranked.c.place)).where(ranked.c.p <= FALSE_DISCOVERY_RATE * ranked.c.place / max(count, 1))
    last = connection.execute(rejected).scalar() or 0
    rows = connection.execute(
        select(drift_shifts).where(*mine).order_by(drift_shifts.c.p, drift_shifts.c.device).limit(min(last, limit))
    )
    return [FeatureShift(row.device, row.feature, row.shift, row.samples, row.p) for row in rows], last


def answers(connection: Connection, model: str, now: float) -> dict[str, Array]:
    """Answers by bundle: (BINS,) by confidence."""
    mine = (device_drifts.c.model == model, device_drifts.c.at > now - STALE_SECONDS)
    rows = connection.execute(
        select(device_drifts.c.sha256, *map(func.sum, BIN_COLUMNS)).where(*mine).group_by(device_drifts.c.sha256)
    )
    return {row[0]: np.array(row[1:], dtype=float) for row in rows}


def models(connection: Connection, limit: int) -> list[tuple[str, int]]:
    """Models of which drift is kept, with how many devices; those of most devices first."""
    many = func.count().label("many")
    rows = select(device_drifts.c.model, many).where(device_drifts.c.model != "").group_by(device_drifts.c.model)
    return [(row.model, row.many) for row in connection.execute(rows.order_by(many.desc(), device_drifts.c.model).limit(limit))]


def devices(connection: Connection, model: str, page: int, size: int) -> list[Any]:
    """Rows of devices: those that drift, then those with the highest scores; page 1 is the first."""
    order = (device_drifts.c.drifting.desc(), device_drifts.c.score.desc(), device_drifts.c.device)
    rows = select(device_drifts).where(device_drifts.c.model == model).order_by(*order)
    return list(connection.execute(rows.offset((page - 1) * size).limit(size)))


def scores(connection: Connection, names: list[str], since: float, until: float, bins: int) -> dict[str, list[tuple[float, float]]]:
    """The highest score of each device in each bin of the time, by device: (time, score). Added up by the database."""
    place = cast((drifts.c.at - since) / (until - since) * bins, Integer).label("place")
    query = select(drifts.c.device, place, func.max(drifts.c.score).label("score")).where(
        drifts.c.device.in_(names), drifts.c.at >= since, drifts.c.at <= until
    )
    by_device: dict[str, list[tuple[float, float]]] = {}
    for row in connection.execute(query.group_by(drifts.c.device, place).order_by(place)):
        by_device.setdefault(row.device, []).append((since + (row.place + 0.5) * (until - since) / bins, row.score))
    for name, at, score in history.scores(connection, names, since):
        by_device.setdefault(name, []).append((at, score))
    return {name: sorted(points) for name, points in by_device.items()}
