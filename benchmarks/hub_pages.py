"""The hub's pages of a large fleet, as a browser asks for them: a real hub on SQLite, devices that reported for a day, a rollout.

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

from harness import Row, at_most, each, main

REAL = 100  # devices that report through the hub's code
REPORTS_A_DAY = 24
TARGETS = {"fleet": (150.0, "/"), "device": (100.0, "/devices/pi-000007"), "drift": (300.0, "/drift")}
OTHERS = {
    "fleet, the last page": "/?at=10000", "fleet, one state": "/?show=behind", "fleet, a search": "/?q=0777", "events": "/events",
    "events, errors": "/events?severity=error", "rollouts": "/rollouts", "a rollout": "/rollouts/1", "versions": "/versions",
    "a device, 30 days": "/devices/pi-000007?hours=720",
}  # fmt: skip
MAX_KILOBYTES, MAX_MEGABYTES = 200.0, 300.0


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, pages)


def pages(quick: bool) -> Iterator[Row]:
    from hubs import running_hub, version

    count = 2_000 if quick else 20_000
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        with running_hub(folder) as hub:
            targets = [hub.publish(version(folder, number)) for number in (1, 2)]
            _fill(folder, count, targets)
            ask = hub.signed_in("ada")
            for name, (most, path) in TARGETS.items():
                milliseconds, size = _asked(ask, path)
                yield at_most(f"{count:,} devices: page of {name}", round(milliseconds), "ms", most)
                if name == "fleet":
                    yield at_most("… its size", round(size / 1e3), "kB", MAX_KILOBYTES)
            for name, path in OTHERS.items():
                yield Row(f"… {name}", round(_asked(ask, path)[0]), "ms")
            status = Path(f"/proc/{hub.process.pid}/status").read_text()
            peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
            yield at_most("… most memory of the worker", round(peak), "MB", MAX_MEGABYTES)


def _asked(ask: Any, path: str) -> tuple[float, int]:
    """Median milliseconds of a page that was asked for before, and its bytes."""
    size = len(ask(path).encode())
    taken = []
    for _ in range(9):
        start = time.perf_counter()
        ask(path)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3, size


def _fill(folder: Path, count: int, targets: list[str]) -> None:
    from sqlalchemy import select

    from edgeloop_contract.rollout import RolloutPlan, Step
    from edgeloop_hub.hub import Hub
    from edgeloop_hub.rollouts import service
    from edgeloop_hub.settings import Settings
    from edgeloop_hub.storage.schema import bundles, released

    hub = Hub.open(Settings(folder / "data"))
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
    hub.database.engine.dispose()


def _device(database: Any, settings: Any, name: str, sha256s: list[str], number: int, rng: random.Random) -> None:
    """A device that enrolled and reported each hour of a day; some drift, crash or refuse samples."""
    from sqlalchemy import update

    from edgeloop_contract.messages import DriftReport, Enrolment, Event, Heartbeat, Moments, Report
    from edgeloop_hub.auth import accounts
    from edgeloop_hub.fleet import reports
    from edgeloop_hub.storage.schema import devices
    from edgeloop_hub.updates import registry

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
    """Rows of the other devices."""
    from sqlalchemy import insert, select

    from edgeloop_hub.storage.fleet_tables import device_drifts, device_states, drift_shifts
    from edgeloop_hub.storage.schema import devices, drifts, events, heartbeats, rollout_evidence

    names = {f"pi-{i:06}": f"pi-{rng.randrange(REAL):06}" for i in range(REAL, count)}
    columns = {
        devices: "name", device_states: "device", device_drifts: "device", drift_shifts: "device", heartbeats: "device",
        drifts: "device", events: "source", rollout_evidence: "device",
    }  # fmt: skip
    for table, column in columns.items():
        by_device: dict[str, list[dict[str, Any]]] = {}
        for row in database.execute(select(table)):
            by_device.setdefault(row._mapping[column], []).append(dict(row._mapping))
        own = {"credential": lambda: secrets.token_hex(32)} if table is devices else {}
        rows = []
        for name, like in names.items():
            rows += [{**row, column: name, **{key: make() for key, make in own.items()}} for row in by_device.get(like, [])]
            if len(rows) > 50_000:
                database.execute(insert(table), rows)
                rows = []
        if rows:
            database.execute(insert(table), rows)


if __name__ == "__main__":
    main(measure)
