"""A tick in the middle of a rollout: judged by sums of the whole rollout, and by reading the newest reports, as before.

Devices and their rows are written into a database on disk; the hub's own code takes some reports through its front door, and the
rows of the others are copies of what it made of those. The tick is `edgeloop-hub tick`'s own function.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from databases import postgresql
from edgeloop_hub.settings import Settings
from harness import Row, at_most, each, main

REPORTS_PER_DAY = 24  # of each device that the reports' side has to read: one an hour, where agents send twelve
TICK_SECONDS = 2.0


def measure(quick: bool) -> Iterator[Row]:
    def on_sqlite(quick: bool) -> Iterator[Row]:
        yield from ticks("SQLite", "", 2_000 if quick else 20_000)

    def on_postgresql(quick: bool) -> Iterator[Row]:
        for count in (2_000,) if quick else (20_000, 100_000):
            with postgresql() as address:
                yield from ticks("PostgreSQL", address, count)

    yield from each(quick, on_sqlite, on_postgresql)


def ticks(kind: str, address: str, count: int) -> Iterator[Row]:
    """Beyond 20,000 devices twice the time is allowed."""
    from sqlalchemy import delete, insert, select

    from edgeloop_contract.messages import Moments
    from edgeloop_contract.rollout import Step
    from edgeloop_hub import health
    from edgeloop_hub.storage.schema import heartbeats, rollout_evidence, rollout_looks, rollouts
    from hub_parts import NEW, OLD, beat, parts

    most_seconds = TICK_SECONDS * (1 if count <= 20_000 else 2)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        hub = parts(Path(folder), database=address)
        hub.bundle("m-2.edgeloop", NEW)
        _devices(hub, count)
        number = hub.rollout("m-2.edgeloop", [Step(percent=50.0), Step(percent=100.0)], soak_seconds=1e6)
        spent = []
        for i in range(200):
            told = beat(
                NEW if _inside(i) else OLD, answered=100, latency_us_p95=rng.uniform(800, 1000), drift=rng.random(),
                confidence=Moments(100, rng.uniform(0.8, 0.9), 0.01), labels={"walk": rng.randrange(30, 70), "run": 40},
            )  # fmt: skip
            start = time.perf_counter()
            hub.report(f"pi-{i:06}", f"key-{i:06}", told)
            spent.append(time.perf_counter() - start)
        with hub.hub.database.writing() as database:
            made = database.execute(select(rollout_evidence).where(rollout_evidence.c.device != "")).all()
            beats = database.execute(select(heartbeats)).all()
            kept = {sha: [row for row in made if row.sha256 == sha] for sha in (NEW, OLD)}
            rows = [{**rng.choice(kept[NEW if _inside(i) else OLD])._mapping, "device": f"pi-{i:06}"} for i in range(200, count)]
            database.execute(insert(rollout_evidence), rows)
        _tick(hub)  # imports its tests
        for words, hours in (("eight hours", 8), ("eight days", 192)):
            hub.change(rollouts, rollouts.c.id == number, began=time.time() - 3600 * hours, step_began=time.time() - 3600 * hours)
            with hub.hub.database.writing() as database:
                database.execute(delete(rollout_looks))  # every gate looks
            looking, _ = _tick(hub)
            between, waits = _tick_beside_reports(hub)
            said = f"{kind}, {count:,} devices, {words}: a tick in which every gate looks"
            yield at_most(said, round(looking, 2), "s", most_seconds)
            yield at_most("… a tick between looks", round(between, 2), "s", most_seconds)
            yield at_most(f"… the longest of {len(waits)} reports meanwhile, none refused", round(1e3 * max(waits)), "ms", 1000)
            with hub.hub.database.reading() as database:
                last = health.last_tick(database)
            assert last is not None
            yield at_most("… how long that tick held other writers at most", round(1e3 * last.longest_write_seconds, 1), "ms", 100)
        yield Row("… a report stored and added up", round(sorted(spent)[100] * 1e3, 2), "ms")
        with hub.hub.database.writing() as database:
            for turn in range(REPORTS_PER_DAY):
                database.execute(insert(heartbeats), [
                    {**rng.choice(beats)._mapping, "device": f"pi-{i:06}", "key": f"{turn:04}-{i:06}",
                     "at": time.time() - 3600 * turn, "sha256": NEW if _inside(i) else OLD} for i in range(count)
                ])  # fmt: skip
        again, most = _tick(hub)
        yield at_most(f"… a day of reports later ({count * REPORTS_PER_DAY:,} rows)", round(again, 2), "s", most_seconds)
        with hub.hub.database.writing() as database:
            database.execute(delete(rollout_evidence))
        by_reports, _ = _tick(hub)
        yield Row("… judged by reading the newest of those reports, as before", round(by_reports, 2), "s")
        yield at_most("… memory of the process", round(most / 2**20), "MB", 300)


def _inside(i: int) -> bool:
    return i % 2 == 1


def _devices(hub: Any, count: int) -> None:
    import json

    from sqlalchemy import insert

    from edgeloop_hub.auth import secret_digests
    from edgeloop_hub.storage.schema import devices
    from hub_parts import NEW, OLD

    with hub.hub.database.writing() as database:
        database.execute(insert(devices), [
            {"name": f"pi-{i:06}", "machine": "", "model": "m", "version": 1, "sha256": NEW if _inside(i) else OLD,
             "heartbeat": "{}", "quota_from": 0.0, "quota_used": 0, "last_seen": time.time(),
             "credential": secret_digests.digest(str(i)),
             "labels": json.dumps([]), "channel": "stable", "enrolled": 0.0} for i in range(count)
        ])  # fmt: skip


def _tick_beside_reports(hub: Any) -> tuple[float, list[float]]:
    """Seconds of a tick, and of each report that a server's process stored while it ran."""
    context = multiprocessing.get_context("spawn")
    ready, over, found = context.Event(), context.Event(), context.Queue()
    server = context.Process(target=_store_reports, args=(hub.hub.settings, ready, over, found))
    server.start()
    ready.wait(60)
    try:
        return _tick(hub)[0], _after(over, found)
    finally:
        over.set()
        server.join(60)


def _after(over: Any, found: Any) -> list[float]:
    over.set()
    waits: list[float] = found.get(timeout=60)
    return waits


def _store_reports(settings: Settings, ready: Any, over: Any, found: Any) -> None:
    from edgeloop_contract.messages import Report
    from edgeloop_hub.auth.accounts import EnrolledDevice
    from edgeloop_hub.fleet import reports
    from edgeloop_hub.storage.database import Database
    from hub_parts import OLD, beat

    database, waits = Database(settings.database_url), list[float]()
    while not over.is_set():
        start = time.perf_counter()
        report = Report(key=f"beside-{start:.6f}", at=time.time(), heartbeat=beat(OLD, answered=100, latency_us_p95=900.0))
        with database.writing() as connection:
            assert reports.store(connection, EnrolledDevice(f"pi-{2 * len(waits):06}", [], "stable", "m", ""), report, settings)
        waits.append(time.perf_counter() - start)
        ready.set()
        time.sleep(0.01)
    found.put(waits[1:])


def _tick(hub: Any) -> tuple[float, int]:
    """Seconds, and the process's most bytes so far."""
    start = time.perf_counter()
    done = hub.tick()
    assert not done.problems, done.problems
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main(measure)
