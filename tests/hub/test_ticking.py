"""`edgeloop-hub tick`: no device, no rollout and no clock stops the rest of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert

from commands import BIN, HERE, command, sentence
from edgeloop_contract.errors import UsageError
from edgeloop_contract.messages import Moments
from edgeloop_contract.rollout import Step
from edgeloop_hub import health
from edgeloop_hub.auth import accounts
from edgeloop_hub.cli_options import cron_line
from edgeloop_hub.hub import Hub
from edgeloop_hub.rollouts import rollout_store, service
from edgeloop_hub.storage.schema import events, facts, heartbeats, rollouts, signed
from edgeloop_hub.updates import signing
from edgeloop_pipeline.fleet import tuf_keys as workstation
from followers import publish
from hub_parts import NEW, OLD, Parts, beat, parts


@pytest.fixture
def hub(tmp_path: Path) -> Parts:
    found = parts(tmp_path)
    found.bundle("m-2.edgeloop", NEW)
    found.bundle("other-2.edgeloop", "c" * 64, model="other")
    for i in range(12):
        found.device(f"pi-{i}")
    return found


def answering(sha256: str, **more: Any) -> Any:
    told = {"answered": 100, "latency_us_p95": 900.0, "confidence": Moments(100, 0.9, 0.01), "labels": {"walk": 100}, **more}
    return beat(sha256, **told)


def state(hub: Parts, number: int) -> str:
    return str(hub.value(rollouts.c.state, rollouts.c.id == number))


def test_crashes_without_bound_hold_up_no_tick(hub: Parts) -> None:
    number = hub.rollout("m-2.edgeloop", [Step(percent=50.0), Step(percent=100.0)])
    for i in range(12):
        for turn, crashes in enumerate((0, 9 * 10**15 if i == 0 else 0)):
            hub.report(f"pi-{i}", f"{i:04}-{turn:04}", answering(NEW if i % 2 else OLD, crashes=crashes))
    began = time.monotonic()
    done = hub.tick()
    assert time.monotonic() - began < 10 and not done.problems
    assert f"rollout {number}" in done.actions[0]
    with hub.hub.database.writing() as database:
        service.change(database, number, "pause", "ada")
    with hub.hub.database.reading() as database:
        assert service.status(database, number).state == "paused"


def test_a_rollout_that_cannot_be_judged_is_halted_and_the_others_go_on(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = hub.rollout("m-2.edgeloop", [Step(percent=100.0)])
    good = hub.rollout("other-2.edgeloop", [Step(devices=["pi-0"])])
    hub.change(signed, signed.c.role == "timestamp", expires=time.time() + 5)
    judged = service.assess
    broken = lambda connection, rollout, **more: 1 / 0 if rollout.id == bad else judged(connection, rollout, **more)  # noqa: E731
    monkeypatch.setattr(service, "assess", broken)
    done = hub.tick()
    assert "timestamp signed anew" in done.actions[0] and f"rollout {good}" in done.actions[1]
    assert "ZeroDivisionError" in done.problems[0]
    assert (state(hub, bad), state(hub, good)) == ("halted", "running")
    assert "cannot be judged" in str(hub.value(rollouts.c.reason, rollouts.c.id == bad))
    with hub.hub.database.reading() as database:
        status = service.status(database, bad)
    assert status.state == "halted" and "cannot be judged" in str(status.gates)
    with hub.hub.database.writing() as database:
        service.change(database, bad, "abort", "ada")
    assert state(hub, bad) == "aborted"


@pytest.mark.parametrize("plan", ["no JSON", '{"steps": 5}', '{"steps": [], "gates": {"alpha": 1e-300}}'])
def test_a_plan_that_cannot_be_read_is_halted_shown_and_aborted(hub: Parts, plan: str) -> None:
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)])
    hub.change(rollouts, rollouts.c.id == number, plan=plan)
    with hub.hub.database.reading() as database:
        assert rollout_store.open_rollouts(database) == [] and service.summaries(database)[0].id == number
    assert "plan cannot be read" in hub.tick().problems[0] and state(hub, number) == "halted"
    with hub.hub.database.writing() as database:
        service.change(database, number, "abort", "ada")


def test_a_rollout_changed_while_it_was_judged_stays_as_somebody_left_it(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)])
    judged = service.assess

    def paused_meanwhile(connection: Any, rollout: Any) -> Any:
        found = judged(connection, rollout)
        hub.change(rollouts, rollouts.c.id == number, state="paused", reason="by ada")
        return found

    monkeypatch.setattr(service, "assess", paused_meanwhile)
    assert "changed meanwhile" in hub.tick().actions[0] and state(hub, number) == "paused"


def test_a_heartbeat_without_an_answer_advances_nothing(hub: Parts) -> None:
    number = hub.rollout("m-2.edgeloop", [Step(percent=60.0), Step(percent=100.0)])
    for i in range(12):
        hub.report(f"pi-{i}", f"idle-{i:04}", beat(NEW))
    assert "0 of" in hub.tick().actions[0] and hub.value(rollouts.c.step, rollouts.c.id == number) == 0
    for i in range(12):
        hub.report(f"pi-{i}", f"busy-{i:04}", answering(NEW))
    assert "step 2 begins" in hub.tick().actions[0]


def test_stored_rows_of_no_known_kind_are_passed_over(hub: Parts) -> None:
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)])
    with hub.hub.database.writing() as database:
        for i, body in enumerate(("{", '{"crashes": 1e999}', '{"latency_us_p95": -5}', "[" * 100_000)):
            row = {"device": "pi-0", "key": f"odd-{i}", "at": time.time(), "sha256": NEW, "body": body}
            database.execute(insert(heartbeats).values(**row))
    assert not hub.tick().problems and state(hub, number) == "running"


def test_pages_and_metrics_know_the_last_tick(hub: Parts) -> None:
    with hub.hub.database.reading() as database:
        assert "no tick yet" in health.current(database, hub.hub.settings).warnings[0].text
    hub.tick()
    with hub.hub.database.reading() as database:
        found = health.current(database, hub.hub.settings)
    assert found.tick and found.tick.fine and found.tick.at > time.time() - 60 and not found.warnings
    late = health.ticking(health.TickRecord(time.time() - 7200), True, time.time())
    assert late[0].level == "urgent" and "does cron run" in late[0].text


def test_a_tick_makes_no_hub(tmp_path: Path) -> None:
    for words in (("tick",), ("backup", tmp_path / "x"), ("device", "revoke", "pi-1"), ("token", "list")):
        done = command("edgeloop-hub", "--data", tmp_path / "nothing", *words)
        assert "there is no hub" in sentence(done, 2), words
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("leap", [2 * 365 * 86400.0, -400 * 86400.0])
def test_a_clock_that_leaps_deletes_and_signs_nothing(hub: Parts, leap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tick()
    hub.report("pi-0", "a-report-of-today", answering(OLD))
    number = hub.rollout("m-2.edgeloop", [Step(devices=["pi-0"])])
    before = hub.value(signed.c.expires, signed.c.role == "timestamp")
    now = time.time() + leap
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(UsageError, match="--accept-clock"):
        hub.tick()
    assert hub.value(signed.c.expires, signed.c.role == "timestamp") == before and state(hub, number) == "running"
    assert hub.value(heartbeats.c.key) == "a-report-of-today" and hub.value(events.c.kind)
    with hub.hub.database.reading() as database:
        assert "the clock says" in health.current(database, hub.hub.settings).warnings[0].text
    hub.tick(accept_clock=True)
    assert hub.value(facts.c.at, facts.c.name == "clock") == now
    hub.tick()


@pytest.mark.parametrize("leap", [2 * 365 * 86400.0, -86400.0])
def test_a_clock_that_leaps_while_a_tick_runs_deletes_nothing(hub: Parts, leap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tick()
    hub.report("pi-0", "a-report-of-today", answering(OLD))
    number = hub.rollout("m-2.edgeloop", [Step(devices=["pi-0"])])
    right, off, renew = time.time, [0.0], signing.renew
    monkeypatch.setattr(time, "time", lambda: right() + off[0])

    def leaps(*words: Any) -> bool:
        done = renew(*words)
        off[0] = leap
        return done

    monkeypatch.setattr(signing, "renew", leaps)
    with pytest.raises(UsageError, match="--accept-clock"):
        hub.tick()
    assert hub.value(heartbeats.c.key) == "a-report-of-today" and hub.value(events.c.kind) and state(hub, number) == "running"
    assert abs(hub.value(facts.c.at, facts.c.name == "clock") - right()) < 60  # the time that is believed stays
    off[0] = 0.0
    monkeypatch.setattr(signing, "renew", renew)
    assert not hub.tick().problems


@pytest.mark.parametrize("leap", [365 * 86400.0, -86400.0])
def test_nothing_is_published_by_a_clock_that_leapt_until_a_person_confirms_it(
    hub: Parts, leap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tick()
    now = time.time() + leap
    monkeypatch.setattr(time, "time", lambda: now)
    before = hub.value(func.count(), signed.c.role == "targets")
    with hub.hub.database.reading() as database:
        newest = signing.latest(database, "targets")
    assert newest is not None
    targets = workstation.current_targets(hub.keys, newest.body.decode())
    targets.version += 1
    body = workstation.signed_targets(hub.keys, targets, remember=False)
    with pytest.raises(UsageError, match="--accept-clock"), hub.hub.database.writing() as database:
        signing.accept(database, [], body, hub.hub.signer, hub.hub.settings)
    assert hub.value(func.count(), signed.c.role == "targets") == before
    with hub.hub.database.reading() as database:  # the pages say so before any tick
        assert "the clock says" in health.current(database, hub.hub.settings).warnings[0].text
    hub.tick(accept_clock=True)
    publish(hub, "m-1.edgeloop")
    assert hub.value(signed.c.expires, signed.c.role == "timestamp", signed.c.expires > now + 86400)


def test_wrong_passwords_under_a_clock_that_was_ahead_lock_nobody_out_for_a_year(
    hub: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, settings = time.time, hub.hub.settings
    monkeypatch.setattr(time, "time", lambda: right() + 365 * 86400)
    with hub.hub.database.writing() as database:
        assert [accounts.may_try(database, "x", 1, settings) for _ in range(3)] == [True, False, False]
        monkeypatch.setattr(time, "time", right)
        assert [accounts.may_try(database, "x", 1, settings) for _ in range(3)] == [True, False, False]


def test_a_hub_of_an_earlier_release_knows_the_time_by_what_it_signed(hub: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.change(signed, signed.c.role == "timestamp", expires=time.time() + hub.hub.settings.timestamp_seconds)
    now = time.time() + 2 * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(UsageError, match="days after the last tick"):
        hub.tick()


@pytest.mark.parametrize(("days", "level"), [(400, ""), (89, "soon"), (29, "urgent"), (6, "urgent"), (-1, "over")])
def test_what_the_workstation_signed_is_told_before_it_expires(days: float, level: str) -> None:
    now = 1.8e9
    for role in ("targets", "root"):
        told = health.expiring({role: now + days * 86400 + 60}, now)
        assert [w.level for w in told] == ([level] if level else [])
        assert all(f"edgeloop keys renew {role}" in w.text for w in told)


def test_the_timestamp_is_renewed_beside_anything(hub: Parts) -> None:
    hub.change(signed, signed.c.role == "timestamp", expires=time.time() - 5)
    before = hub.value(signed.c.version, signed.c.role == "timestamp")
    assert hub.tick().actions == ["timestamp signed anew"]
    with hub.hub.database.reading() as database:
        assert signing.latest_version(database, "timestamp") == before + 1


def test_the_docs_cron_line_ticks_the_hub_of_the_first_evening(tmp_path: Path) -> None:
    text = (HERE.parent / "docs" / "hub.md").read_text(encoding="utf-8")
    evening = re.findall(r"```sh\n(export EDGELOOP_HUB_DATA.*?)```", text, re.S)[0].splitlines()
    cron = re.findall(r"`\* \* \* \* \* (edgeloop-hub [^`]+)`", text)[0]
    env = {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"}
    begun = "\n".join([evening[0], *(line for line in evening if line.startswith("edgeloop-hub token api"))])
    for place, script in (("begun", begun), ("cron", cron)):
        (tmp_path / place).mkdir()
        done = subprocess.run(
            ["sh", "-ec", script], cwd=tmp_path / place, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("online-key.pem"))) == 1


def test_serve_says_the_line_for_cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "bin" / "edgeloop-hub")])
    line = cron_line({"data": tmp_path / "my hub", "database": "postgresql://h/%41", "blobs": ""})
    assert line.startswith(f"* * * * * {tmp_path}/bin/edgeloop-hub --data '{tmp_path}/my hub' --database")
    assert line.endswith(r"postgresql://h/\%41 tick")


def test_a_hub_that_is_opened_twice_in_one_process_loses_nothing_when_a_command_leaves(hub: Parts) -> None:
    """Closing any descriptor of SQLite's file drops the locks of this process; a command that leaves then deletes its log."""
    again = Hub.open(hub.hub.settings)
    words = ("edgeloop-hub", "--data", hub.hub.settings.data, "token", "list")
    assert command(*words).returncode == 0
    with hub.hub.database.writing() as database:
        accounts.make_token(database, "api", "kept", [], None)
    assert "kept" in command(*words).stdout
    again.database.engine.dispose()
