"""Ticks that come together, are killed, or run as a service; old rows; and systemd's units."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from commands import BIN, command, sentence
from edgeloop_contract.errors import StorageError
from edgeloop_contract.messages import Moments
from edgeloop_contract.rollout import Step
from edgeloop_hub import health
from edgeloop_hub.storage.deletion import ROWS
from edgeloop_hub.storage.schema import events, heartbeats, rollouts, signed
from edgeloop_hub.tick import TickOutcome
from edgeloop_hub.tick_service import run_every
from hub_parts import NEW, Parts, beat, parts
from programs import needs
from serving import eventually


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    found = parts(tmp_path)
    found.bundle("m-2.edgeloop", NEW)
    for i in range(4):
        found.device(f"pi-{i}", sha256=NEW)
    return found


def rolled_out(hub: Parts, steps: int) -> int:
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)] * steps)
    for i in range(4):
        hub.report(f"pi-{i}", f"key-{i:04}", beat(NEW, answered=9, confidence=Moments(9, 0.9, 0.01), labels={"walk": 9}))
    return number


def program(tmp_path: Path, *words: str) -> subprocess.Popen[bytes]:
    with (tmp_path / "tick.log").open("ab") as log:
        return subprocess.Popen([BIN / "edgeloop-hub", "--data", tmp_path / "data", "tick", *words], stdout=log, stderr=log)


def steps_of(hub: Parts) -> list[str]:
    with hub.hub.database.reading() as database:
        kinds = select(events.c.kind).where(events.c.source == "hub", events.c.kind.like("rollout step%")).order_by(events.c.at)
        return list(database.execute(kinds).scalars())


def test_ticks_together_advance_each_step_once(hub: Parts, tmp_path: Path) -> None:
    number = rolled_out(hub, 40)
    hub.change(signed, signed.c.role == "timestamp", expires=time.time() + 5)
    before = hub.value(func.max(signed.c.version), signed.c.role == "timestamp")
    together = [program(tmp_path) for _ in range(4)]
    assert [process.wait(60) for process in together] == [0] * 4
    done = steps_of(hub)
    assert len(done) == len(set(done)) == hub.value(rollouts.c.step, rollouts.c.id == number)
    assert hub.value(func.max(signed.c.version), signed.c.role == "timestamp") == before + 1


@pytest.mark.long
def test_a_tick_that_is_killed_at_any_time_is_safe(hub: Parts, tmp_path: Path) -> None:
    number, rng = rolled_out(hub, 50), random.Random(0)
    began = time.monotonic()
    assert program(tmp_path).wait(60) == 0
    usual = time.monotonic() - began
    for _ in range(12):
        process = program(tmp_path)
        time.sleep(rng.uniform(0.3, 1.0) * usual)
        process.kill()
        process.wait(20)
    assert not hub.tick().problems
    done = steps_of(hub)
    assert len(done) == len(set(done)) == hub.value(rollouts.c.step, rollouts.c.id == number)


def test_paused_and_resumed_while_it_was_judged_is_not_advanced(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloop_hub.rollouts import service

    number, judged = rolled_out(hub, 2), service.assess

    def resumed_meanwhile(connection: Any, rollout: Any) -> Any:
        found = judged(connection, rollout)
        with hub.hub.database.writing() as database:
            service.change(database, number, "pause", "ada")
            service.change(database, number, "resume", "ada")
        return found

    monkeypatch.setattr(service, "assess", resumed_meanwhile)
    assert "changed meanwhile" in hub.tick().actions[0] and hub.value(rollouts.c.step) == 0


def test_old_rows_go_in_small_transactions(hub: Parts) -> None:
    old = [
        {"device": f"pi-{i % 4}", "key": f"old-{i:06}", "at": time.time() - 40 * 86400, "sha256": NEW, "body": "{}"}
        for i in range(5 * ROWS)
    ]
    with hub.hub.database.writing() as database:
        database.execute(insert(heartbeats), old)
    hub.report("pi-0", "a-new-one", beat(NEW))
    hub.tick()
    assert hub.value(select(func.count()).select_from(heartbeats).scalar_subquery()) == 4  # each device's newest stays
    with hub.hub.database.reading() as database:
        last = health.last_tick(database)
    assert last is not None and 0 < last.longest_write_seconds < 0.1


def test_a_service_ticks_until_it_is_told_to_stop(hub: Parts, tmp_path: Path) -> None:
    hub.change(signed, signed.c.role == "timestamp", expires=time.time() + 5)
    process = program(tmp_path, "--every", "1")
    try:
        eventually(lambda: hub.value(func.max(signed.c.version), signed.c.role == "timestamp") > 1)
        first = _last(hub)
        eventually(lambda: _last(hub) > first)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert "timestamp signed anew" in (tmp_path / "tick.log").read_text()


def _last(hub: Parts) -> float:
    with hub.hub.database.reading() as database:
        last = health.last_tick(database)
    return last.at if last is not None else 0.0


def test_a_service_says_a_problem_once_and_goes_on() -> None:
    stop, said, turns = threading.Event(), list[str](), iter(range(9))

    def once() -> TickOutcome:
        turn = next(turns)
        if turn == 5:
            stop.set()
        if turn in (1, 2):
            raise StorageError("database: away")
        return TickOutcome(["did something"] if turn == 4 else [], ["rollout 1: no"] if turn == 5 else [])

    run_every(0.001, once, stop, said.append)
    assert said == ["problem: database: away", "did something", "problem: rollout 1: no"]


@pytest.mark.parametrize(("words", "part"), [(("--every", "0"), "range"), (("--every", "60", "--accept-clock"), "said once")])
def test_a_service_that_makes_no_sense_is_refused(hub: Parts, tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    done = command("edgeloop-hub", "--data", tmp_path / "data", "tick", *words)
    assert done.returncode == 2 and part in done.stderr and "Traceback" not in done.stderr


@needs("systemd")
@pytest.mark.parametrize("more", [(), ("--timer",)])
def test_systemd_takes_the_units(tmp_path: Path, more: tuple[str, ...]) -> None:
    parts(tmp_path / "my %hub")
    data = tmp_path / "my %hub" / "data"
    done = command("edgeloop-hub", "--data", data, "units", tmp_path / "units", *more)
    assert done.returncode == 0, done.stderr
    made = sorted((tmp_path / "units").iterdir())
    assert len(made) == 2 + len(more) and all(path.stat().st_mode & 0o077 == 0 for path in made)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *made], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert not [line for line in verified.stderr.splitlines() if "edgeloop" in line and "not executable" not in line]
    tick = next(path for path in made if path.name == "edgeloop-hub-tick.service").read_text()
    line = next(line for line in tick.splitlines() if line.startswith("ExecStart="))
    words = line.removeprefix("ExecStart=").replace("%%", "%")
    ran = subprocess.run(["timeout", "-s", "TERM", "4", "sh", "-c", f"exec {words}"], capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 124), ran.stderr
    assert health.last_tick(parts_database(data)) is not None


def parts_database(data: Path) -> Any:
    from edgeloop_hub.storage.database import Database

    return Database(f"sqlite:///{data / 'hub.sqlite'}").reads.connect()


def test_units_are_of_a_hub_that_is_there(tmp_path: Path) -> None:
    done = command("edgeloop-hub", "--data", tmp_path / "nothing", "units", tmp_path / "units")
    assert "there is no hub" in sentence(done, 2) and not (tmp_path / "units").exists()
