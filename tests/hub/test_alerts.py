"""Alerts from a cause to its receivers: told once, told again when worse, told when it has ended; and whatever receivers do."""

from __future__ import annotations

import email
import email.policy
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, select

from commands import command, sentence
from edgeloop_contract.messages import Event
from edgeloop_contract.rollout import Step
from edgeloop_hub.alerts import watch
from edgeloop_hub.alerts.sender import Sender
from edgeloop_hub.rollouts import service
from edgeloop_hub.storage import device_rows
from edgeloop_hub.storage.alert_tables import alert_messages, alerts
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.schema import facts, signed
from hub_parts import NEW, Parts, beat, parts
from hubs import running_hub
from receivers import Receiver, mail_server, receiver
from serving import eventually

HOOK = 'gather_seconds = 0\nclear_seconds = 0\n[[channel]]\nname = "hook"\nkind = "webhook"\nurl = "{0}"\nsecret_file = "key"\n'


@pytest.fixture
def ears() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture
def hub(tmp_path: Path, ears: Receiver) -> Parts:
    found = parts(tmp_path)
    write(tmp_path, HOOK.format(ears.address("/hook")))
    found.tick()
    return found


def write(folder: Path, text: str) -> None:
    (folder / "data" / "key").write_text("a secret\n")
    (folder / "data" / "alerts.toml").write_text(text)


def told(ears: Receiver) -> list[tuple[str, str]]:
    events = [json.loads(one.body) for one in ears.got]
    return [(event["type"].rpartition(".")[2], event["subject"]) for event in events]


def silent_devices(hub: Parts, number: int, begin: int = 0) -> None:
    row = {"channel": "stable", "seen": 1.0, "silent_after": 2.0, "model": "m", "version": 1, "sha256": "", **device_rows.NOTHING}
    with hub.hub.database.writing() as database:
        database.execute(insert(device_states), [row | {"device": f"pi-{begin + i:05}"} for i in range(number)])


def test_a_fleet_that_falls_silent_is_one_message_and_so_is_its_return(hub: Parts, ears: Receiver) -> None:
    silent_devices(hub, 20_000)
    hub.tick()
    hub.tick()
    event = json.loads(ears.got[0].body)
    assert told(ears) == [("opened", "silent")]
    assert "20,000 devices (pi-00000, pi-00001" in event["data"]["text"] and event["data"]["severity"] == "error"
    hub.change(device_states, silent_after=time.time() + 3600)
    hub.tick()
    hub.tick()
    assert told(ears) == [("opened", "silent"), ("resolved", "silent")]


def test_a_webhook_is_a_signed_cloud_event(hub: Parts, ears: Receiver) -> None:
    silent_devices(hub, 1)
    hub.tick()
    [got] = ears.got
    at, digest = (part.partition("=")[2] for part in got.headers["x-edgeloop-signature"].split(","))
    assert hmac.new(b"a secret", f"{at}.".encode() + got.body, hashlib.sha256).hexdigest() == digest
    assert abs(int(at) - time.time()) < 60 and got.headers["content-type"] == "application/cloudevents+json"
    event = json.loads(got.body)
    assert event["specversion"] == "1.0" and event["id"] == hub.value(alert_messages.c.id) and event["time"].endswith("Z")


def test_growth_is_told_again_and_one_more_among_many_is_not(hub: Parts, ears: Receiver, tmp_path: Path) -> None:
    write(tmp_path, "repeat_seconds = 0\n" + HOOK.format(ears.address("/hook")))
    for number in (5, 1, 1, 100):  # the 7th is half as many again as 5; so are 107
        silent_devices(hub, number, begin=len(_names(hub)))
        hub.tick()
    assert told(ears) == [("opened", "silent"), ("worse", "silent"), ("worse", "silent")]


def _names(hub: Parts) -> list[str]:
    with hub.hub.database.reading() as database:
        return list(database.execute(select(device_states.c.device)).scalars())


def test_what_devices_did_not_take_and_what_halts_is_told_by_its_bundle(hub: Parts, ears: Receiver) -> None:
    hub.bundle("m-2.edgeloop", NEW)
    for i in range(3):
        hub.device(f"pi-{i}", sha256=NEW)
        why = Event(key=f"event-{i:04}", at=time.time(), kind="refused", target="m-2.edgeloop", text="canary")
        hub.report(f"pi-{i}", f"key-{i:04}", beat(NEW, crashes=3), events=[why])
    hub.device("liar", sha256="made up")
    lie = Event(key="event-9999", at=time.time(), kind="refused", target="<@channel>", text="x")
    hub.report("liar", "key-of-liar", beat("made up"), events=[lie])
    number = hub.rollout("m-2.edgeloop", [Step(percent=100.0)], soak_seconds=9e4)
    with hub.hub.database.writing() as database:
        service.halt(database, number, "m-2.edgeloop", "crash rate")
    hub.tick()
    assert sorted(told(ears)) == [
        ("opened", "crashing:m-2.edgeloop"), ("opened", "refused:m-2.edgeloop"), ("opened", "refused:other"), ("opened", f"rollout:{number}"),
    ]  # fmt: skip
    assert not any(b"@channel" in one.body for one in ears.got)
    with hub.hub.database.writing() as database:
        service.change(database, number, "abort", "ada")
    hub.tick()
    assert told(ears)[4:] == [("resolved", f"rollout:{number}")]


def test_targets_metadata_are_told_of_90_30_and_7_days_before_and_renewed(hub: Parts, ears: Receiver) -> None:
    for days in (91, 89, 60, 29, 20, 6, 1, -1, 365):
        hub.change(signed, signed.c.role == "targets", expires=time.time() + days * 86400)
        hub.tick()
    found = [(json.loads(one.body)["type"].rpartition(".")[2], json.loads(one.body)["data"]["severity"]) for one in ears.got]
    assert found == [("opened", "info"), ("worse", "warning"), ("worse", "error"), ("worse", "error"), ("resolved", "error")]
    assert b"edgeloop keys renew targets" in ears.got[0].body


def test_devices_are_gathered_before_the_message_and_what_was_brief_is_not_told(hub: Parts, ears: Receiver, tmp_path: Path) -> None:
    write(tmp_path, HOOK.format(ears.address("/hook")).replace("gather_seconds = 0", "gather_seconds = 300"))
    silent_devices(hub, 3)
    hub.tick()
    assert told(ears) == [] and hub.value(alerts.c.count) == 3
    hub.change(device_states, silent_after=time.time() + 3600)
    hub.tick()
    hub.change(device_states, silent_after=1.0)
    hub.tick()
    hub.change(alerts, alerts.c.ended.is_(None), began=time.time() - 301)
    silent_devices(hub, 4, begin=3)
    hub.tick()
    assert told(ears) == [("opened", "silent")] and b"7 devices" in ears.got[0].body


def test_a_receiver_that_is_away_gets_it_later_and_one_that_hangs_stops_nobody(hub: Parts, ears: Receiver, tmp_path: Path) -> None:
    with receiver() as dead:
        dead.stall_seconds = 30.0
        channel = f'[[channel]]\nname = "dead"\nkind = "slack"\nurl = "{dead.address("/x")}"\n'
        write(tmp_path, HOOK.format(ears.address("/hook")) + channel)
        ears.statuses = [503, 200]
        silent_devices(hub, 1)
        sender = Sender(hub.hub.database, hub.hub.settings.data)
        began = time.monotonic()
        hub.tick(sender=sender)
        assert time.monotonic() - began < 8
        waits = select(alert_messages.c.due).where(alert_messages.c.channel == "hook").scalar_subquery()
        assert hub.value(waits) > time.time() + 50
        hub.change(alert_messages, alert_messages.c.channel == "hook", due=time.time())
        hub.tick(sender=sender)
    assert [one.path for one in ears.got] == ["/hook", "/hook"] and ears.got[0].body == ears.got[1].body
    assert hub.value(alert_messages.c.state, alert_messages.c.channel == "hook") == "sent"
    assert hub.value(alert_messages.c.state, alert_messages.c.channel == "dead") == "waiting"


def test_what_is_never_taken_is_given_up_and_others_hear_of_it(hub: Parts, ears: Receiver, tmp_path: Path) -> None:
    with receiver() as sour:
        sour.statuses = [400]
        channel = f'[[channel]]\nname = "sour"\nkind = "ntfy"\nurl = "{sour.address("/t")}"\nrules = ["silent"]\n'
        write(tmp_path, HOOK.format(ears.address("/hook")) + channel)
        silent_devices(hub, 1)
        hub.tick()
        hub.tick()
    assert told(ears) == [("opened", "silent"), ("opened", "receiver:sour")]
    assert hub.value(alert_messages.c.state, alert_messages.c.channel == "sour") == "failed"


def test_quiet_hours_hold_back_what_can_wait(hub: Parts, ears: Receiver, tmp_path: Path) -> None:
    hour = time.gmtime().tm_hour
    quiet = f'quiet = "{(hour - 1) % 24:02}:00-{(hour + 2) % 24:02}:00"\n'
    write(tmp_path, HOOK.format(ears.address("/hook")) + quiet)
    silent_devices(hub, 1)
    hub.change(signed, signed.c.role == "root", expires=time.time() + 86400)
    hub.tick()
    assert told(ears) == [("opened", "expiry:root")]  # an error waits for nobody
    assert hub.value(alert_messages.c.due, alert_messages.c.state == "waiting") > time.time() + 1800
    hub.change(device_states, silent_after=time.time() + 3600)
    hub.tick()
    assert hub.value(alert_messages.c.id, alert_messages.c.state == "waiting") is None  # over before anybody was told
    assert told(ears) == [("opened", "expiry:root")]


def test_mail_goes_encrypted_and_with_a_password(tmp_path: Path) -> None:
    hub = parts(tmp_path)
    with mail_server(tmp_path / "data", "pass phrase") as (port, letters):
        (tmp_path / "data" / "password").write_text("pass phrase")
        text = f'name = "post"\nkind = "email"\nserver = "localhost:{port}"\nsender = "hub@example.org"\nto = ["ada@example.org"]\n'
        write(
            tmp_path, "gather_seconds = 0\n[[channel]]\n" + text + 'user = "hub"\npassword_file = "password"\nca_file = "ca.pem"\n'
        )
        silent_devices(hub, 2)
        hub.tick()
        (tmp_path / "data" / "password").write_text("wrong")
        done = command("edgeloop-hub", "--data", tmp_path / "data", "alerts", "test")
        (tmp_path / "data" / "alerts.toml").write_text((tmp_path / "data" / "alerts.toml").read_text().replace("ca_file", "#"))
        untrusted = command("edgeloop-hub", "--data", tmp_path / "data", "alerts", "test")
    [letter] = letters
    mail = email.message_from_bytes(letter.content, policy=email.policy.default)
    assert letter.rcpt_tos == ["ada@example.org"] and mail["Subject"].startswith(
        "edgeloop [warning] 2 devices (pi-00000, pi-00001)"
    )
    assert done.returncode == 1 and "535" in done.stdout and "post" in sentence(done, 1)
    assert untrusted.returncode == 1 and "certificate" in untrusted.stdout and len(letters) == 1


def test_each_kind_says_it_in_its_own_words(tmp_path: Path, ears: Receiver) -> None:
    hub = parts(tmp_path)
    kinds = [("ntfy", "/base/topic"), ("slack", "/services/T/B"), ("webhook", "/hook")]
    channels = "".join(f'[[channel]]\nname = "{kind}"\nkind = "{kind}"\nurl = "{ears.address(path)}"\n' for kind, path in kinds)
    write(tmp_path, 'address = "https://hub.example"\n' + channels)
    done = command("edgeloop-hub", "--data", tmp_path / "data", "alerts", "test")
    assert done.returncode == 0 and done.stdout.splitlines() == ["ntfy: sent", "slack: sent", "webhook: sent"]
    ntfy, slack, _ = (json.loads(one.body) for one in ears.got)
    assert ears.paths() == ["/base/", "/services/T/B", "/hook"]
    assert ntfy["topic"] == "topic" and ntfy["priority"] == 2 and ntfy["click"] == "https://hub.example/alerts"
    assert slack["text"].startswith("[info] a test") and slack["text"].endswith("<https://hub.example/alerts>")
    assert hub.value(alert_messages.c.id) is None


def test_a_clock_that_leaps_is_told_and_makes_no_device_silent(hub: Parts, ears: Receiver) -> None:
    from edgeloop_contract.errors import UsageError

    hub.device("pi-1")
    silent_devices(hub, 5)
    hub.change(device_states, silent_after=time.time() + 3600)
    hub.change(facts, facts.c.name == "clock", at=time.time() - 60 * 86400)
    with pytest.raises(UsageError):
        hub.tick()
    assert told(ears) == [("opened", "tick:problem")] and b"accept-clock" in ears.got[0].body


def test_serve_tells_of_a_tick_that_is_late(tmp_path: Path, ears: Receiver) -> None:
    hub = parts(tmp_path)
    write(tmp_path, HOOK.format(ears.address("/hook")))
    hub.tick()
    assert not watch.look(hub.hub, Sender(hub.hub.database, hub.hub.settings.data))
    last = json.dumps({"at": time.time() - 3000, "seconds": 0.1})
    hub.change(facts, facts.c.name == "tick", body=last)
    with running_hub(tmp_path, keys=False, serve=("--set", "watch_seconds=0.2")) as running:
        eventually(lambda: told(ears) == [("opened", "tick:late")])
        time.sleep(0.6)
        assert told(ears) == [("opened", "tick:late")]
        silent_devices(hub, 3)
        eventually(lambda: told(ears)[1:] == [("opened", "silent")])
        page = running.signed_in("ada")("/alerts")
        assert "the last tick was on" in page and "3 devices (pi-00000" in page and "hook: webhook" in page
        with hub.hub.database.writing() as database:
            database.execute(delete(device_states))
    assert "Traceback" not in running.log
    hub.tick()
    assert ("resolved", "tick:late") in told(ears) and ("resolved", "silent") in told(ears)


def test_a_crash_loop_is_told_of_the_bundle_that_crashed_and_of_no_other(hub: Parts, ears: Receiver) -> None:
    for number, sha256 in ((2, NEW), (3, "c" * 64)):
        hub.bundle(f"m-{number}.edgeloop", sha256, version=number)
    hub.device("pi", sha256=NEW)
    hub.report("pi", "key-00001", beat(NEW, crashes=3))
    hub.tick()
    hub.report("pi", "key-00002", beat("c" * 64, crashes=3))  # it came to another bundle, and crashed no more
    hub.tick()
    hub.tick()
    assert told(ears) == [("opened", "crashing:m-2.edgeloop"), ("resolved", "crashing:m-2.edgeloop")]
    hub.report("pi", "key-00003", beat("c" * 64, crashes=6))
    hub.tick()
    assert told(ears)[2:] == [("opened", "crashing:m-3.edgeloop")]
