"""Old reports become sums by hour, then by day: nothing is lost or doubled, and pages and the API read on without a seam."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, event, func, insert, select

from commands import HERE
from edgeloop_contract.messages import DriftReport, Moments, Report
from edgeloop_contract.rollout import Step
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.drift import kept as kept_drift
from edgeloop_hub.drift.summary import summary
from edgeloop_hub.fleet import history, removal, reports
from edgeloop_hub.history import kept, roll_up
from edgeloop_hub.history.sums import BeatSums, DriftSums
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.history_tables import device_history
from edgeloop_hub.storage.schema import drifts, facts, heartbeats, rollout_evidence, rollouts
from hub_parts import NEW, OLD, Parts, beat, parts
from programs import needs
from test_hub_stores import postgres

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=[needs("postgresql"), pytest.mark.long])])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    if request.param == "SQLite":
        yield parts(tmp_path, report_quota_per_hour=10**6, report_bytes_per_hour=10**9)
        return
    with postgres() as address:
        yield (found := parts(tmp_path, database=address, report_quota_per_hour=10**6, report_bytes_per_hour=10**9))
        found.hub.database.engine.dispose()


def tell(hub: Parts, device: str, hours_ago: float, sha256: str = OLD, **figures: Any) -> None:
    """A report with drift, as the device would have sent it then."""
    at = time.time() - hours_ago * HOUR
    seen = {"answered": 10, "latency_us_p95": 100.0 + hours_ago, "celsius": 50.0, "labels": {"walk": 7, "run": 3}, **figures}
    told = beat(sha256, confidence=Moments(count=10, mean=0.8, variance=0.01), **seen)
    drift = DriftReport(
        model="m", sha256=sha256, samples=100, score=0.5 + hours_ago / 1e4, alarms=1, shifts={"mean": 0.2}, confidence=[1] * 10,
        faults={"clipped": 2}, drifting=True, cause="fault",
    )  # fmt: skip
    report = Report(key=f"{at:.6f}-{random.random():.9f}"[:64], at=at, heartbeat=told, drift=drift)
    with hub.hub.database.writing() as database:
        assert reports.store(database, EnrolledDevice(device, [], "stable", "m", ""), report, hub.hub.settings)


def fill(hub: Parts, devices: int = 3, days: int = 5, step: float = 3.0) -> int:
    count = 0
    for i in range(devices):
        hub.device(f"pi-{i}")
        for k in range(int(days * 24 / step)):
            tell(hub, f"pi-{i}", (k + 0.1) * step, NEW if k < 20 else OLD)
            count += 1
    return count


def totals(hub: Parts) -> tuple[int, int]:
    """Reports and answers of everything that is kept of all devices."""
    with hub.hub.database.reading() as database:
        names = [row[0] for row in database.execute(select(heartbeats.c.device).union(select(device_history.c.device)))]
        beats = [one for name in names for _, one in history.of_device(database, name, 0.0).beats]
    return sum(one.reports for one in beats), sum(one.answered for one in beats)


def raw(hub: Parts, table: Any = heartbeats) -> int:
    return int(hub.value(func.count(), table.c.device != ""))


def test_ticks_sum_what_is_old_and_readers_see_no_seam(hub: Parts) -> None:
    count = fill(hub)
    with hub.hub.database.reading() as database:
        before = history.of_device(database, "pi-1", time.time() - 6 * DAY)
        told = summary(database, "m", 6 * DAY)
        scores = kept_drift.scores(database, ["pi-1"], time.time() - 6 * DAY, time.time(), 48)["pi-1"]
    done = hub.tick()
    assert not done.problems and any(line.startswith("history: ") for line in done.actions)
    assert raw(hub) == raw(hub, drifts) <= 3 * 17 < count
    assert totals(hub) == (count, 10 * count)
    with hub.hub.database.reading() as database:
        after = history.of_device(database, "pi-1", time.time() - 6 * DAY)
        again = summary(database, "m", 6 * DAY)
        scores_after = kept_drift.scores(database, ["pi-1"], time.time() - 6 * DAY, time.time(), 48)["pi-1"]
    assert [words for _, words in after.releases] == [words for _, words in before.releases]
    assert len(after.beats) == len(before.beats) and after.beats == sorted(after.beats, key=lambda one: one[0])
    assert [one.latency_us_p95 for _, one in after.beats] == pytest.approx([one.latency_us_p95 for _, one in before.beats])
    assert after.drift == before.drift and max(score for _, score in after.scores) == max(score for _, score in before.scores)
    assert max(score for _, score in scores_after) == max(score for _, score in scores)
    assert (again.reports, again.devices) == (told.reports, told.devices)
    assert [(one.device, one.feature, one.samples) for one in again.shifts] == [
        (s.device, s.feature, s.samples) for s in told.shifts
    ]
    assert hub.tick().actions == [] and totals(hub) == (count, 10 * count)


def test_hours_become_days_and_days_go(hub: Parts) -> None:
    fill(hub, devices=2, days=25, step=5.0)
    settings = hub.hub.settings
    reports_there, answers = totals(hub)
    for history_seconds, day_seconds in ((30 * DAY, 366 * DAY), (7 * DAY, 366 * DAY), (7 * DAY, 366 * DAY)):
        roll_up.roll_up(hub.hub.database, replaced(settings, history_seconds, day_seconds), 60)
        assert totals(hub) == (reports_there, answers)
    spans = {hub.value(func.count(), device_history.c.span == span) for span in (3600, 86400)}
    assert 0 not in spans
    with hub.hub.database.reading() as database:
        whole = kept.of_device(database, "pi-0", 0.0, 10_000)
    assert sum(one.beats.labels["walk"] for one in whole if one.beats) == 7 * sum(one.beats.reports for one in whole if one.beats)
    forget(hub)
    roll_up.roll_up(hub.hub.database, replaced(settings, 7 * DAY, 14 * DAY), 60)
    oldest = hub.value(func.min(device_history.c.begins), device_history.c.span == 86400)
    assert time.time() - 16 * DAY <= oldest


def test_devices_with_nothing_to_sum_are_looked_at_some_hundred_at_a_time(hub: Parts) -> None:
    """At the turn of each hour every device is looked at. One that has something to sum is found among all others."""
    rows = [
        {"device": f"d-{i:04}", "key": f"{i:04}-{hours:04}", "at": time.time() - hours * HOUR, "sha256": OLD, "body": beat_text()}
        for i in range(900) for hours in ((0, 50, 51) if i == 850 else (0,))
    ]  # fmt: skip
    with hub.hub.database.writing() as database:
        database.execute(insert(heartbeats), rows)
        database.execute(insert(heartbeats).values(device="silent", key="old-0001", at=1e9, sha256=OLD, body=beat_text()))
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    event.listen(hub.hub.database.engine, "before_cursor_execute", note)
    progress = roll_up.roll_up(hub.hub.database, hub.hub.settings, 60)
    event.remove(hub.hub.database.engine, "before_cursor_execute", note)
    assert progress == (2, 0.0) and len(asked) < 40
    assert raw(hub) == 901  # the newest of each stays, however old


def beat_text() -> str:
    return msgspec.json.encode(beat(answered=10)).decode()


def replaced(settings: Settings, history_seconds: float, day_seconds: float) -> Settings:
    return dataclasses.replace(settings, history_seconds=history_seconds, day_history_seconds=day_seconds)


def forget(hub: Parts) -> None:
    """That a walk is done: settings changed, not the time."""
    with hub.hub.database.writing() as database:
        database.execute(delete(facts).where(facts.c.name.in_(list(roll_up.WALKS))))


def test_a_silent_device_keeps_its_newest_report_and_a_late_one_finds_its_hour(hub: Parts) -> None:
    hub.device("pi-0")
    for hours_ago in (90.0, 80.0, 70.5):
        tell(hub, "pi-0", hours_ago)
    hub.tick()
    assert raw(hub) == raw(hub, drifts) == 1 and totals(hub) == (3, 30)
    hour = time.time() // HOUR * HOUR
    tell(hub, "pi-0", (time.time() - hour) / HOUR + 79.9)  # some hours later, of an outage
    tell(hub, "pi-0", (time.time() - hour) / HOUR + 79.8)
    forget(hub)
    hub.tick()
    assert totals(hub) == (5, 50) and raw(hub) == 1
    with hub.hub.database.writing() as database:
        removal.remove(database, "pi-0", "ada")
    removal.forget_reports(hub.hub.database, "pi-0")
    assert raw(hub) == raw(hub, device_history) == 0


def test_one_that_names_ever_new_bundles_and_labels_fills_nothing(hub: Parts) -> None:
    hub.device("pi-0")
    base = (time.time() - 3 * DAY) // HOUR * HOUR
    for i in range(40):
        hours_ago = (time.time() - base - 10 * i) / HOUR
        tell(hub, "pi-0", hours_ago, f"{i:064x}", labels={f"made up {i} {j}": 1 for j in range(90)})
    tell(hub, "pi-0", 0.1)
    hub.tick()
    with hub.hub.database.reading() as database:
        rows = database.execute(select(device_history)).all()
    assert len(rows) == roll_up.MAX_BUNDLES + 1 and max(len(row.beats) for row in rows) < 20_000
    assert sum(msgspec.msgpack.decode(row.beats, type=BeatSums).reports for row in rows) == 40


def test_rollouts_of_earlier_releases_keep_the_reports_that_they_are_judged_by(hub: Parts) -> None:
    fill(hub, devices=1)
    hub.bundle("m-2.edgeloop", NEW)
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)], soak_seconds=1e6)
    hub.change(rollouts, rollouts.c.id == number, began=time.time() - 4 * DAY)
    with hub.hub.database.writing() as database:
        database.execute(delete(rollout_evidence))
    there = raw(hub)
    hub.tick()
    assert there - raw(hub) <= 9  # those before it began


@pytest.mark.long
def test_a_tick_that_is_killed_loses_and_doubles_nothing(hub: Parts) -> None:
    count = fill(hub, devices=2, days=2)
    with hub.hub.database.writing() as database:
        row = dict(database.execute(select(heartbeats)).first()._mapping)  # type: ignore[union-attr]
        many = [
            {**row, "device": f"pi-{i % 40:02}", "key": f"key-{i:08}", "at": time.time() - 3 * DAY - 60 * (i // 40)}
            for i in range(8_000)
        ]
        database.execute(insert(heartbeats), many)
    words = (hub.hub.settings.database_url, str(hub.hub.settings.data))
    killed = 0
    for turn in range(12):
        with subprocess.Popen([sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, cwd=HERE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            time.sleep(0.015 * (turn % 5) + 0.005)
            process.send_signal(signal.SIGKILL)
        killed += raw(hub) > 200
        assert totals(hub) == (count + 8_000, 10 * count + 8_000 * 10)
    assert killed
    roll_up.roll_up(hub.hub.database, hub.hub.settings, 60)  # a tick has less time
    assert totals(hub) == (count + 8_000, 10 * count + 8_000 * 10) and raw(hub) < 100


KILLED = """
import sys
from pathlib import Path
from edgeloop_hub.history import roll_up
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.database import Database
settings = Settings(Path(sys.argv[2]), database=sys.argv[1])
database = Database(settings.database_url)
print("ready", flush=True)
roll_up.roll_up(database, settings, 60)
"""


def test_two_ticks_at_once_take_turns(hub: Parts) -> None:
    count = fill(hub, devices=4)
    threads = [threading.Thread(target=_roll, args=(hub.hub.settings,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert totals(hub) == (count, 10 * count) and raw(hub) <= 4 * 17


def _roll(settings: Settings) -> None:
    database = Database(settings.database_url)
    roll_up.roll_up(database, settings, 60)
    database.engine.dispose()


def test_sums_of_sums_are_the_same_sums() -> None:
    rng = random.Random(1)
    told = [
        (float(i), beat(OLD, answered=rng.randrange(100), latency_us_p95=rng.choice([None, rng.random()]), crashes=i,
                        labels={rng.choice("abc"): 5}, confidence=Moments(rng.randrange(9), rng.random(), 0.0)))
        for i in range(50)
    ]  # fmt: skip
    drift = [
        (float(i), DriftReport(samples=rng.randrange(9), score=rng.random(), shifts={"x": rng.random()}, confidence=[i] * 10))
        for i in range(50)
    ]
    at_once, drift_at_once = BeatSums(), DriftSums()
    parts_of, drift_parts = [BeatSums() for _ in range(5)], [DriftSums() for _ in range(5)]
    for i in range(50):
        at_once.add(*told[i])
        drift_at_once.add(*drift[i])
        parts_of[i % 5].add(*told[i])
        drift_parts[i % 5].add(*drift[i])
    merged, drift_merged = BeatSums(), DriftSums()
    for some, other in zip(reversed(parts_of), reversed(drift_parts), strict=True):
        merged.merge(some)
        drift_merged.merge(other)
    assert flat(merged) == pytest.approx(flat(at_once)) and merged.labels == at_once.labels and merged.crashes == 49
    assert flat(drift_merged) == pytest.approx(flat(drift_at_once))
    assert drift_merged.as_report("m", OLD).shifts["x"] == pytest.approx(
        sum(report.shifts["x"] * report.samples for _, report in drift) / sum(report.samples for _, report in drift)
    )


def flat(sums: Any) -> list[float]:
    found: list[float] = []
    waiting = [msgspec.to_builtins(sums)]
    while waiting:
        each = waiting.pop()
        if isinstance(each, (list, tuple)):
            waiting += each
        elif isinstance(each, (int, float)):
            found.append(float(each))
    return found
