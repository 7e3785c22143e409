"""A tick in the middle of a rollout: judged by sums of the whole rollout, and by reading the newest reports, as before.

Devices and their rows are written into a database on disk; the hub's own code takes some reports through its front door, and the
rows of the others are copies of what it made of those. Behind the rollout lie eight days as a hub that ticks keeps them: two days
and an hour of reports, the rest as sums by hour. The tick is `edgeloop-hub tick`'s own function, in a process of its own.
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

FULL_HOURS = (*range(48), 49)  # ago, of which each device has a report: one an hour, where agents send twelve; the last is due
SUM_HOURS = range(50, 192, 4)  # of which each device has a sum
TICK_SECONDS, MAX_MEGABYTES = 2.0, 300.0


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
    from edgeloop_hub.storage.schema import rollout_evidence, rollout_looks, rollouts
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
        _states(hub, count)
        ticker = Ticker(hub.hub.settings)
        with hub.hub.database.writing() as database:
            made = database.execute(select(rollout_evidence).where(rollout_evidence.c.device != "")).all()
            kept = {sha: [row for row in made if row.sha256 == sha] for sha in (NEW, OLD)}
            rows = [{**rng.choice(kept[NEW if _inside(i) else OLD])._mapping, "device": f"pi-{i:06}"} for i in range(200, count)]
            database.execute(insert(rollout_evidence), rows)
        ticker.tick()  # imports its tests
        for words, hours in (("eight hours", 8), ("eight days", 192)):
            hub.change(rollouts, rollouts.c.id == number, began=time.time() - 3600 * hours, step_began=time.time() - 3600 * hours)
            with hub.hub.database.writing() as database:
                database.execute(delete(rollout_looks))  # every gate looks
            looking, _ = ticker.tick()
            looking_cpu = ticker.cpu_seconds
            between, waits = _tick_beside_reports(hub, ticker)
            said = f"{kind}, {count:,} devices, {words}: a tick in which every gate looks"
            yield at_most(said, round(looking, 2), "s", most_seconds)
            yield Row("… its CPU time, without the database's", round(looking_cpu, 2), "s")
            yield at_most("… a tick between looks", round(between, 2), "s", most_seconds)
            yield Row("… its CPU time", round(ticker.cpu_seconds, 2), "s")
            yield at_most(f"… the longest of {len(waits)} reports meanwhile, none refused", round(1e3 * max(waits)), "ms", 1000)
            with hub.hub.database.reading() as database:
                last = health.last_tick(database)
            assert last is not None
            yield at_most("… how long that tick held other writers at most", round(1e3 * last.longest_write_seconds, 1), "ms", 100)
        yield Row("… a report stored and added up", round(sorted(spent)[100] * 1e3, 2), "ms")
        yield from _eight_days_behind(hub, ticker, count, most_seconds, told)
        ticker.stop()


def _eight_days_behind(hub: Any, ticker: Ticker, count: int, most_seconds: float, told: Any) -> Iterator[Row]:
    from sqlalchemy import delete

    from edgeloop_hub.storage.schema import rollout_evidence

    _history(hub, told)
    summing, _ = ticker.tick()
    said = f"… with eight days of reports behind it, while it sums {count:,}"
    yield at_most(said, round(summing, 2), "s", most_seconds)
    yield Row("… its CPU time", round(ticker.cpu_seconds, 2), "s")
    ticks = 1
    while ticker.summed:
        again, most = ticker.tick()
        ticks += 1
    rows = count * (len(FULL_HOURS) + len(SUM_HOURS))
    yield at_most(f"… after {ticks - 1} such ticks ({rows:,} rows of reports and sums)", round(again, 2), "s", most_seconds)
    yield Row("… its CPU time", round(ticker.cpu_seconds, 2), "s")
    yield at_most("… memory of the tick's process", round(most / 2**20), "MB", MAX_MEGABYTES * most_seconds / TICK_SECONDS)
    with hub.hub.database.writing() as database:
        database.execute(delete(rollout_evidence))
    by_reports, _ = ticker.tick()
    yield Row("… judged by reading the newest of those reports, as before", round(by_reports, 2), "s")


class Ticker:
    """A process that ticks when it is told to, as the service does."""

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_tick_when_told, args=(settings, there))
        self._process.start()
        self.summed, self.cpu_seconds = False, 0.0

    def tick(self) -> tuple[float, int]:
        """Seconds, and the process's most bytes so far."""
        self._here.send(True)
        seconds, self.cpu_seconds, most, problems, self.summed = self._here.recv()
        assert not problems, problems
        return seconds, most

    def stop(self) -> None:
        self._here.send(False)
        self._process.join(60)


def _tick_when_told(settings: Settings, pipe: Any) -> None:
    from edgeloop_hub.hub import Hub
    from edgeloop_hub.tick import tick

    hub = Hub.open(settings)
    while pipe.recv():
        start, cpu = time.perf_counter(), time.process_time()
        done = tick(hub.database, hub.blobs, hub.signer, hub.settings)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        summed = any(action.startswith("history") for action in done.actions)
        pipe.send((seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10, done.problems, summed))


def _states(hub: Any, count: int) -> None:
    """Rows of the other devices as those of two that reported."""
    from sqlalchemy import insert, select

    from edgeloop_hub.storage.fleet_tables import device_states
    from hub_parts import NEW, OLD

    with hub.hub.database.writing() as database:
        made = {row.sha256: row._mapping for row in database.execute(select(device_states))}
        database.execute(insert(device_states), [
            {**made[NEW if _inside(i) else OLD], "device": f"pi-{i:06}"} for i in range(200, count)
        ])  # fmt: skip


def _history(hub: Any, told: Any) -> None:
    import msgspec
    from sqlalchemy import delete, insert, literal, select, text

    from edgeloop_hub.history import roll_up
    from edgeloop_hub.history.sums import BeatSums, span_begin
    from edgeloop_hub.storage.history_tables import device_history
    from edgeloop_hub.storage.schema import devices, facts, heartbeats

    body, now = msgspec.json.encode(told).decode(), time.time()
    columns = ["device", "key", "at", "sha256", "body"]
    for hour in FULL_HOURS:
        key = literal(f"{hour:04}-").concat(devices.c.name)
        rows = select(devices.c.name, key, literal(now - 3600 * hour - 60), devices.c.sha256, literal(body))
        with hub.hub.database.writing() as database:
            database.execute(insert(heartbeats).from_select(columns, rows))
    for hour in SUM_HOURS:
        sums = BeatSums()
        sums.add(now - 3600 * hour, told)
        span = (literal(3600), literal(span_begin(now - 3600 * hour, 3600)), devices.c.sha256, literal("m"), literal(0.0))
        rows = select(devices.c.name, *span, literal(msgspec.msgpack.encode(sums)), literal(b""))
        with hub.hub.database.writing() as database:
            database.execute(insert(device_history).from_select([column.name for column in device_history.columns], rows))
    with hub.hub.database.writing() as database:
        database.execute(delete(facts).where(facts.c.name.in_(list(roll_up.WALKS))))  # an hour turned
        database.execute(text("ANALYZE"))  # as databases do by themselves after a while


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


def _tick_beside_reports(hub: Any, ticker: Ticker) -> tuple[float, list[float]]:
    """Seconds of a tick, and of each report that a server's process stored while it ran."""
    context = multiprocessing.get_context("spawn")
    ready, over, found = context.Event(), context.Event(), context.Queue()
    server = context.Process(target=_store_reports, args=(hub.hub.settings, ready, over, found))
    server.start()
    ready.wait(60)
    try:
        return ticker.tick()[0], _after(over, found)
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


if __name__ == "__main__":
    main(measure)
