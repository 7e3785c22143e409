"""What history takes: bytes a device and year, how fast a tick sums old reports, and whether their space is used again.

Reports go through the hub's own code once; the rows of other devices and times are copies of what it stored. Sizes are the
database's own, with indexes and with what is free inside of it.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, text

from databases import on_each
from harness import Row, at_most, main

POLL_SECONDS = 300.0
HOUR, DAY, YEAR = 3600.0, 86400.0, 365.0
FULL_DAYS, HOUR_DAYS = 2.0, 28.0  # that the settings' own values keep in full, and as hours; the rest of a year as days
TABLES = ("heartbeats", "drifts", "device_history")
INSERTED = 5_000  # rows at once


def measure(quick: bool) -> Iterator[Row]:
    yield from on_each(quick, lambda kind, address: history(kind, address, 40 if quick else 100))


def history(kind: str, address: str, count: int) -> Iterator[Row]:
    from edgeloop_hub.history import roll_up
    from hub_parts import parts

    with tempfile.TemporaryDirectory() as folder:
        hub = parts(Path(folder), database=address, report_quota_per_hour=10**6)
        database, settings = hub.hub.database, hub.hub.settings
        beats, drifted = _templates(hub)
        _fill(database, beats, drifted, count, 3.0, 2.0)  # a day that is old enough
        there = _sizes(database, address)
        rows = count * DAY / POLL_SECONDS
        full = (there["heartbeats"] + there["drifts"]) / rows
        yield Row(f"{kind}: a report with drift in full", round(full), "bytes")
        begun, spent = time.monotonic(), time.process_time()
        database.longest_write_seconds = 0.0
        done = roll_up.roll_up(database, settings, 600)
        took, spent = time.monotonic() - begun, time.process_time() - spent
        yield Row(f"{kind}: reports and drift reports summed a second", done.rows / took, "/s")
        yield Row("… CPU time of the tick's process for each", round(1e6 * spent / done.rows), "µs")
        yield at_most("… how long that held other writers at most", round(1e3 * database.longest_write_seconds, 1), "ms", 100)
        hours = (_sizes(database, address)["device_history"]) / (count * 25)  # the day lies in 25 hours by the clock
        yield Row(f"{kind}: a device's hour", round(hours), "bytes")
        yield Row("… its day in full, against its day in hours", DAY / POLL_SECONDS * full / (24 * hours), "×")
        before = sum(_sizes(database, address).values())
        for _ in range(3):  # as further days come and go
            with database.writing() as connection:
                connection.execute(delete(hub_table("device_history")))
            _vacuum(database, address)
            _fill(database, beats, drifted, count, 3.0, 2.0)
            _forget_walks(database)
            roll_up.roll_up(database, settings, 600)
        after = sum(_sizes(database, address).values())
        yield at_most(f"{kind}: size after three more days were stored and summed, against after one", after / before, "×", 1.25)
        _forget_walks(database)
        roll_up.roll_up(database, dataclasses.replace(settings, history_seconds=DAY), 600)
        _vacuum(database, address)
        days = _used(database, address, "device_history") / (count * 2)
        yield Row(f"{kind}: a device's day as one row", round(days), "bytes")
        year = FULL_DAYS * DAY / POLL_SECONDS * full + HOUR_DAYS * 24 * hours + (YEAR - FULL_DAYS - HOUR_DAYS) * days
        yield Row(f"{kind}: a device and year, a report each {POLL_SECONDS:.0f} s", year / 1e6, "MB")
        yield Row("… all in full", YEAR * DAY / POLL_SECONDS * full / 1e6, "MB")


def _templates(hub: Any) -> tuple[list[Any], list[Any]]:
    """Rows as the hub stores them, of reports as the tests' model sends them."""
    from edgeloop_contract.messages import DriftReport, Moments, Report
    from edgeloop_hub.auth.accounts import EnrolledDevice
    from edgeloop_hub.fleet import reports
    from edgeloop_hub.storage.schema import drifts, heartbeats
    from hub_parts import OLD, beat

    rng = random.Random(0)
    hub.device("template")
    for number in range(200):
        told = beat(
            OLD, answered=600, latency_us_p50=rng.uniform(500, 600), latency_us_p95=rng.uniform(800, 1000), drift=rng.random(),
            celsius=rng.uniform(40, 60), memory_bytes=rng.randrange(10**8), labels={"A": rng.randrange(300), "B": 300},
            confidence=Moments(count=600, mean=rng.random(), variance=0.01), machine="aarch64", agent="0.1.0", runtime="onnx",
        )  # fmt: skip
        drift = DriftReport(
            model="m", sha256=OLD, samples=600, score=rng.random(), shifts={f"feature {i}": rng.gauss(0, 0.1) for i in range(6)},
            confidence=[60] * 10,
        )  # fmt: skip
        report = Report(key=f"key-{number:028}", at=time.time(), heartbeat=told, drift=drift)
        with hub.hub.database.writing() as database:
            assert reports.store(database, EnrolledDevice("template", [], "stable", "m", ""), report, hub.hub.settings)
    with hub.hub.database.writing() as database:
        found = [list(database.execute(select(table)).mappings().all()) for table in (heartbeats, drifts)]
        for table in (heartbeats, drifts):
            database.execute(delete(table))
    return found[0], found[1]


def _fill(database: Any, beats: list[Any], drifted: list[Any], count: int, first_days: float, last_days: float) -> None:
    """Reports of so many devices, between so many days ago, in the order of time as they come; and a new one of each."""
    from edgeloop_hub.storage.schema import drifts, heartbeats

    rng, now = random.Random(time.time()), time.time()
    # A whole day that ends where the hours in full begin.
    ends = (now - last_days * DAY) // HOUR * HOUR
    days = first_days - last_days
    times = [ends - days * DAY + POLL_SECONDS * k for k in range(int(days * DAY / POLL_SECONDS))]
    waiting: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for at in [*times, now]:
        for i in range(count):
            new = {"device": f"pi-{i:06}", "key": f"{rng.getrandbits(128):032x}", "at": at + i * POLL_SECONDS / count}
            waiting.append(({**rng.choice(beats), **new}, {**rng.choice(drifted), **new}))
        if len(waiting) >= INSERTED or at == now:
            with database.writing() as connection:
                connection.execute(insert(heartbeats), [row for row, _ in waiting])
                connection.execute(insert(drifts), [row for _, row in waiting])
            waiting = []


def _sizes(database: Any, address: str) -> dict[str, int]:
    """Bytes of each table with its indexes."""
    with database.reading() as connection:
        if address:
            return {name: connection.execute(text(f"SELECT pg_total_relation_size('{name}')")).scalar() for name in TABLES}
        sizes = dict.fromkeys(TABLES, 0)
        pages = "SELECT m.tbl_name, SUM(s.pgsize) FROM dbstat s JOIN sqlite_master m ON m.name = s.name GROUP BY m.tbl_name"
        sizes |= {name: size for name, size in connection.execute(text(pages)) if name in sizes}
        free = connection.execute(text("PRAGMA freelist_count")).scalar() * connection.execute(text("PRAGMA page_size")).scalar()
        return sizes | {"free": free}


def _used(database: Any, address: str, name: str) -> int:
    """Bytes of a table when it is written anew, without what is free in it."""
    if address:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM FULL {name}"))
    return _sizes(database, address)[name]


def _vacuum(database: Any, address: str) -> None:
    """As autovacuum does it by itself, with a minute between two looks."""
    if address:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in TABLES:
                connection.execute(text(f"VACUUM {name}"))


def _forget_walks(database: Any) -> None:
    from edgeloop_hub.history import roll_up
    from edgeloop_hub.storage.schema import facts

    with database.writing() as connection:
        connection.execute(delete(facts).where(facts.c.name.in_(list(roll_up.WALKS))))


def hub_table(name: str) -> Any:
    from edgeloop_hub.storage.schema import metadata

    return metadata.tables[name]


if __name__ == "__main__":
    main(measure)
