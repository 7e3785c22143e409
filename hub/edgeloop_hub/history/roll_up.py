"""Old reports become sums: one row for each device, bundle and hour, and later for each day.

A batch is one transaction that deletes rows and adds them to sums, so that a process that is killed loses nothing and doubles
nothing; several at once take turns. The newest report of each device stays as it is. No batch waits for the disk: after a power cut
its rows are there again, and are summed again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, Table, and_, delete, insert, or_, select, tuple_

from edgeloop_contract.messages import DriftReport, Heartbeat
from edgeloop_hub.history import due_rows
from edgeloop_hub.history.due_rows import Due
from edgeloop_hub.history.sums import BeatSums, DriftSums, decoded, span_begin
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.history_tables import device_history
from edgeloop_hub.storage.many_rows import delete_rows
from edgeloop_hub.storage.schema import drifts, facts, heartbeats

HOUR, DAY = 3600, 86400
DEVICES = 64  # that one batch looks at: with a report each five minutes it takes some transactions, with one an hour a single one
ROWS, MAX_BYTES = 200, 1 << 20  # of each kind, that one transaction sums: some 10 ms
HOURS_SHARE = 0.8  # of the time; the rest is left to days
MAX_BUNDLES = 8  # of a device and hour or day; what others reported is summed as of no bundle
WALKS = {"history hours": HOUR, "history days": DAY}


class Walk(msgspec.Struct):
    """How far the devices were looked at, in the order of names: for rows older than `cutoff`. `done`: all were."""

    cutoff: float = 0.0
    after: str = ""
    done: bool = False


class Progress(NamedTuple):
    """`rows` that became sums; how far the oldest walk that is not done is behind, in seconds."""

    rows: int
    behind: float


class _Sums:
    """Sums of one transaction, by device, begin and bundle."""

    def __init__(self, span: int) -> None:
        self.span = span
        self.rows: dict[tuple[str, int, str], tuple[str, BeatSums, DriftSums]] = {}
        self._bundles: dict[tuple[str, int], set[str]] = {}

    def of(self, device: str, begins: int, sha256: str, model: str) -> tuple[str, BeatSums, DriftSums]:
        bundles = self._bundles.setdefault((device, begins), set())
        if sha256 not in bundles and len(bundles) >= MAX_BUNDLES:
            sha256 = model = ""
        bundles.add(sha256)
        return self.rows.setdefault((device, begins, sha256), (model, BeatSums(), DriftSums()))

    def add_row(self, row: Row[Any]) -> None:
        """Of `device_history`: of this span, or of a shorter one."""
        _, beats, drifted = self.of(row.device, span_begin(row.begins, self.span), row.sha256, row.model)
        if (more := decoded(row.beats, BeatSums)) is not None:
            beats.merge(more)
        if (other := decoded(row.drifts, DriftSums)) is not None:
            drifted.merge(other)

    def add(self, more: _Sums) -> None:
        """Others of the same span."""
        for (device, begins, sha256), (model, more_beats, more_drifted) in more.rows.items():
            _, beats, drifted = self.of(device, begins, sha256, model)
            beats.merge(more_beats)
            drifted.merge(more_drifted)

    def stored(self) -> Iterator[dict[str, Any]]:
        for (device, begins, sha256), (model, beats, drifted) in self.rows.items():
            yield {
                "device": device, "span": self.span, "begins": begins, "sha256": sha256, "model": model, "score": drifted.score,
                "beats": msgspec.msgpack.encode(beats) if beats.reports else b"",
                "drifts": msgspec.msgpack.encode(drifted) if drifted.reports else b"",
            }  # fmt: skip


def roll_up(
    database: Database, settings: Settings, seconds: float, needed_since: float = math.inf, backlog_seconds: float = 0.0
) -> Progress:  # fmt: skip
    """Sum what is old enough, for at most so many seconds. `needed_since`: reports since then stay as they are.

    `backlog_seconds`: instead, where the hour or the day before is not done yet.
    """
    now = time.time()
    full = min(settings.full_history_seconds, settings.history_seconds)
    cutoffs = {HOUR: span_begin(min(now - full, needed_since), HOUR), DAY: span_begin(now - settings.history_seconds, DAY)}
    kept = settings.day_history_seconds if settings.day_history_seconds > settings.history_seconds else settings.history_seconds
    walks = {span: _walk(database, name, cutoffs[span]) for name, span in WALKS.items()}
    begun, rows, behind = time.monotonic(), 0, 0.0
    seconds = max(seconds, backlog_seconds) if any(_behind(walks[span], cutoffs[span]) for span in walks) else seconds
    for name, span in WALKS.items():
        walk, share = walks[span], HOURS_SHARE if span == HOUR and not walks[DAY].done else 1.0
        rows += _go_on(database, span, walk, cutoffs[span], now - kept, begun + seconds * share)
        _keep(database, name, walk)
        behind = max(behind, _behind(walk, cutoffs[span]))
    return Progress(rows, behind)


def _behind(walk: Walk, cutoff: float) -> float:
    return 0.0 if walk.done else cutoff - walk.cutoff


def _go_on(database: Database, span: int, walk: Walk, cutoff: float, before: float, ends: float) -> int:
    """From where a walk stands to its end, or to the end of the time; how many rows were summed."""
    rows = 0
    while not walk.done and time.monotonic() < ends:
        if span == HOUR:
            names, due = due_rows.reports(database, walk.after, cutoff)
        else:
            names, due = due_rows.hours(database, walk.after, cutoff, before)
        for first in range(0, len(due), DEVICES):
            some = due[first : first + DEVICES]
            while count := _hours(database, some) if span == HOUR else _days(database, [d.name for d in some], cutoff, before):
                rows += count
                if time.monotonic() > ends:
                    return rows
        walk.after, walk.done = names[-1] if names else "", not names
    return rows


def of_device(name: str) -> Old:
    return Old(device_history, device_history.c.device == name)


def _walk(database: Database, name: str, cutoff: float) -> Walk:
    """Where the last tick stopped; a new walk once a further hour or day is old enough."""
    with database.reading() as connection:
        body = connection.execute(select(facts.c.body).where(facts.c.name == name)).scalar()
    try:
        walk = msgspec.json.decode(body, type=Walk) if body else Walk(cutoff)
    except msgspec.MsgspecError:
        walk = Walk(cutoff)
    return walk if not walk.done or walk.cutoff == cutoff else Walk(cutoff)


def _keep(database: Database, name: str, walk: Walk) -> None:
    with database.writing() as connection:
        connection.execute(delete(facts).where(facts.c.name == name))
        connection.execute(insert(facts).values(name=name, at=time.time(), body=msgspec.json.encode(walk).decode()))


def _hours(database: Database, due: Sequence[Due]) -> int:
    """Sum some reports of these devices by hour; how many."""
    with database.reading() as connection:
        beats = _old_rows(connection, heartbeats, {one.name: one.beats for one in due})
        drifted = _old_rows(connection, drifts, {one.name: one.drifts for one in due})
    if not beats and not drifted:
        return 0
    more = _Sums(HOUR)
    for row in beats:
        _add_beat(more, row)
    for row in drifted:
        _add_drift(more, row)
    with database.writing(durable=False) as connection:
        if _are_mine(connection, heartbeats, beats) and _are_mine(connection, drifts, drifted):
            _add_kept(connection, more)
        else:
            connection.rollback()
    return len(beats) + len(drifted)


def _old_rows(connection: Connection, table: Table, until: Mapping[str, float]) -> list[Row[Any]]:
    """Some reports of each device before a time: the same one of most devices, as the newest report stays."""
    by_time = dict[float, list[str]]()
    for name, at in until.items():
        by_time.setdefault(at, []).append(name)
    here = [and_(table.c.device.in_(names), table.c.at < at) for at, names in by_time.items() if at > 0]
    if not here:
        return []
    columns = [table.c[name] for name in ("device", "key", "at", "sha256", "body")]
    rows, size = list[Row[Any]](), 0
    for found in connection.execute(select(*columns).where(or_(*here)).limit(ROWS)):
        if rows and (size := size + len(found.body)) > MAX_BYTES:
            break
        rows.append(found)
    return rows


def _are_mine(connection: Connection, table: Table, rows: list[Row[Any]]) -> bool:
    """Delete these reports. False: another tick has summed some of them."""
    return delete_rows(connection, table, [{"device": row.device, "key": row.key} for row in rows]) == len(rows)


def _add_beat(sums: _Sums, row: Row[Any]) -> None:
    """What cannot be read is in no sum, as it was in no plot."""
    try:
        beat = msgspec.json.decode(row.body, type=Heartbeat)
    except (msgspec.MsgspecError, RecursionError):
        return
    if row.sha256:
        sums.of(row.device, span_begin(row.at, HOUR), row.sha256, beat.model)[1].add(row.at, beat)


def _add_drift(sums: _Sums, row: Row[Any]) -> None:
    try:
        report = msgspec.json.decode(row.body, type=DriftReport)
    except (msgspec.MsgspecError, RecursionError):
        return
    sums.of(row.device, span_begin(row.at, HOUR), row.sha256, report.model)[2].add(row.at, report)


def _add_kept(connection: Connection, more: _Sums) -> None:
    """Write sums, with what is kept of the same hours or days."""
    here = {(device, more.span, begins) for device, begins, _ in more.rows}
    key = tuple_(device_history.c.device, device_history.c.span, device_history.c.begins)
    sums = _Sums(more.span)
    for row in connection.execute(select(device_history).where(key.in_(here))):
        sums.add_row(row)
    replaced = list(sums.rows)
    sums.add(more)
    if replaced:
        keys = [(device, sums.span, begins, sha256) for device, begins, sha256 in replaced]
        connection.execute(delete(device_history).where(tuple_(*device_history.primary_key.columns).in_(keys)))
    if sums.rows:
        connection.execute(insert(device_history), list(sums.stored()))


def _days(database: Database, names: list[str], cutoff: float, before: float) -> int:
    """Sum some hours of these devices by day, and forget days that ended before `before`; how many rows."""
    mine = device_history.c.device.in_(names)
    old_hours = (mine, device_history.c.span == HOUR, device_history.c.begins < cutoff)
    old_days = (mine, device_history.c.span == DAY, device_history.c.begins < before - DAY)
    columns = device_history.primary_key.columns
    with database.reading() as connection:
        hours = [tuple(row) for row in connection.execute(select(*columns).where(*old_hours).limit(ROWS))]
        days = [tuple(row) for row in connection.execute(select(*columns).where(*old_days).limit(ROWS))]
    if not hours and not days:
        return 0
    more = _Sums(DAY)
    with database.writing(durable=False) as connection:
        if days:
            connection.execute(delete(device_history).where(tuple_(*columns).in_(days)))
        if hours:
            doomed = delete(device_history).where(tuple_(*columns).in_(hours)).returning(device_history)
            for row in connection.execute(doomed):
                more.add_row(row)
            _add_kept(connection, more)
    return len(hours) + len(days)
