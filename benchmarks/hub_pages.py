"""The hub's pages of a large fleet, as a browser asks for them: a real hub, devices that reported for a day, a rollout.

Some devices report through the hub's own code; the rows of the others are copies of what it kept of those.
"""

from __future__ import annotations

import random
import re
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Column, MetaData, String, Table, distinct, func, insert, select, text, update

from databases import postgresql
from edgeloop_contract.messages import DriftReport, Enrolment, Event, Heartbeat, Moments, Report
from edgeloop_contract.rollout import RolloutPlan, Step
from edgeloop_hub.auth import accounts
from edgeloop_hub.fleet import reports
from edgeloop_hub.hub import Hub
from edgeloop_hub.rollouts import service
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.fleet_tables import device_drifts, device_states, drift_shifts
from edgeloop_hub.storage.schema import bundles, devices, drifts, events, heartbeats, released, rollout_evidence
from edgeloop_hub.updates import registry
from harness import Row, at_most, each, main
from hubs import running_hub, version

REAL = 100  # devices that report through the hub's code
REPORTS_A_DAY = 24
TARGETS = {"fleet": (150.0, "/"), "device": (100.0, "/devices/pi-000007"), "drift": (300.0, "/drift")}
OTHERS = {
    "fleet, the last page": "/?at=10000", "fleet, one state": "/?show=behind", "fleet, a search": "/?q=0777", "events": "/events",
    "events, errors": "/events?severity=error", "rollouts": "/rollouts", "a rollout": "/rollouts/1", "versions": "/versions",
    "a device, 30 days": "/devices/pi-000007?hours=720",
}  # fmt: skip
DEVICE_COLUMNS = {
    devices: "name", device_states: "device", device_drifts: "device", drift_shifts: "device", heartbeats: "device",
    drifts: "device", events: "source", rollout_evidence: "device",
}  # fmt: skip
MAX_KILOBYTES, MAX_MEGABYTES = 200.0, 300.0


def measure(quick: bool) -> Iterator[Row]:
    def on_sqlite(quick: bool) -> Iterator[Row]:
        yield from pages("SQLite", "", 2_000 if quick else 20_000)

    def on_postgresql(quick: bool) -> Iterator[Row]:
        for count in (2_000,) if quick else (20_000, 100_000):
            with postgresql() as address:
                yield from pages("PostgreSQL", address, count)
                yield from sizes(address)

    yield from each(quick, on_sqlite, on_postgresql)


def pages(kind: str, database: str, count: int) -> Iterator[Row]:
    """Beyond 20,000 devices twice the time is allowed."""
    factor = 1 if count <= 20_000 else 2
    words = ("--database", database) if database else ()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with running_hub(folder, *words) as hub:
            targets = [hub.publish(version(folder, number)) for number in (1, 2)]
            _fill(Settings(folder / "data", database=database), count, targets)
            ask = hub.signed_in("ada")
            for name, (most, path) in TARGETS.items():
                milliseconds, size = _asked(ask, path)
                yield at_most(f"{kind}, {count:,} devices: page of {name}", round(milliseconds), "ms", factor * most)
                if name == "fleet":
                    yield at_most("… its size", round(size / 1e3), "kB", MAX_KILOBYTES)
            for name, path in OTHERS.items():
                yield Row(f"… {name}", round(_asked(ask, path)[0]), "ms")
            status = Path(f"/proc/{hub.process.pid}/status").read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
            yield at_most("… most memory of the worker", round(peak), "MB", MAX_MEGABYTES)


def sizes(address: str) -> Iterator[Row]:
    """Bytes a row, with its indexes, of PostgreSQL's tables that grow with devices."""
    database = Database(address)
    with database.reading() as connection:
        for table, column in DEVICE_COLUMNS.items():
            rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
            size = connection.execute(text("SELECT pg_total_relation_size(:name)"), {"name": table.name}).scalar_one()
            many = connection.execute(select(func.count(distinct(table.c[column])))).scalar_one()
            if rows:
                yield Row(f"… {table.name}: bytes a row; rows a device that has any", round(size / rows), f"B; {rows / many:.1f}")
    database.engine.dispose()


def _asked(ask: Any, path: str) -> tuple[float, int]:
    """Median milliseconds of a page that was asked for before, and its bytes."""
    size = len(ask(path).encode())
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        ask(path)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3, size


def _fill(settings: Settings, count: int, targets: list[str]) -> None:
    hub = Hub.open(settings)
    rng = random.Random(0)
    with hub.database.writing() as database:
        database.execute(released.insert().values(channel="stable", model="exercise_watch", target=targets[0]))
        plan = RolloutPlan([Step(percent=50.0), Step(percent=100.0)], soak_seconds=1e6)
        service.start(database, targets[1], plan, None)
        sha256s = [database.execute(select(bundles.c.sha256).where(bundles.c.target == t)).scalar_one() for t in targets]
    for i in range(REAL):
        with hub.database.writing() as database:
            _device(database, hub.settings, f"pi-{i:06}", sha256s, i, rng)
    with hub.database.writing() as database:
        _copies(database, count, rng)
    if not hub.database.is_sqlite:  # as autovacuum does in time
        with hub.database.reads.connect() as connection:
            connection.execute(text("VACUUM ANALYZE"))
    hub.database.engine.dispose()


def _device(database: Any, settings: Any, name: str, sha256s: list[str], number: int, rng: random.Random) -> None:
    """A device that enrolled and reported each hour of a day; some drift, crash or refuse samples."""
    accounts.enrol(database, Enrolment(token=accounts.make_token(database, "enrol", name, [], None), device=name), b"{}")
    new, odd = number % 2, number % 20
    features = list(registry.group_variance_of(database, sha256s[new]).between)
    now, mine = time.time(), accounts.EnrolledDevice(name, [], "stable", "exercise_watch", sha256s[new])
    for hour in range(REPORTS_A_DAY):
        beat = Heartbeat(
            model="exercise_watch", version=1 + new, sha256=sha256s[new], seconds=3600.0, answered=600, refused=60 * (odd == 3),
            crashes=hour if odd == 5 else 0, latency_us_p95=rng.uniform(900, 1100), celsius=rng.uniform(40, 60),
            memory_bytes=90 << 20, confidence=Moments(count=600, mean=0.85, variance=0.02), labels={"A": 300, "B": 300},
        )  # fmt: skip
        drift = DriftReport(
            model="exercise_watch", sha256=sha256s[new], samples=600, score=rng.random() + (odd == 7), drifting=odd == 7,
            shifts={f: rng.gauss(2.0 * (odd == 7), 0.1) for f in features}, confidence=[60] * 10,
        )  # fmt: skip
        kind = "refused" if odd == 9 else "installed"
        event = Event(key=secrets.token_hex(8), kind=kind, at=now, target="exercise_watch-2", text="as told")
        report = Report(key=secrets.token_hex(8), at=now - 3600 * (23 - hour), heartbeat=beat, drift=drift, events=[event])
        reports.store(database, mine, report, settings)
        database.execute(update(devices).where(devices.c.name == name).values(quota_rows=0, quota_bytes=0, quota_used=0))


def _copies(database: Any, count: int, rng: random.Random) -> None:
    """Rows of the other devices, made by the database itself."""
    names = Table(
        "copies",
        MetaData(),
        Column("name", String(63), primary_key=True),
        Column("source", String(63)),
        Column("secret", String(64)),
    )
    names.create(database)
    rows = [
        {"name": f"pi-{i:06}", "source": f"pi-{rng.randrange(REAL):06}", "secret": secrets.token_hex(32)}
        for i in range(REAL, count)
    ]
    database.execute(insert(names), rows)
    for table, column in DEVICE_COLUMNS.items():
        own = {column: names.c.name, "credential": names.c.secret}
        values = [own.get(c.name, c) if c.name in (column, "credential") else c for c in table.c]
        copied = select(*values).join(names, names.c.source == table.c[column])
        database.execute(insert(table).from_select([c.name for c in table.c], copied))
    names.drop(database)


if __name__ == "__main__":
    main(measure)
