"""Answers that go somewhere: a real MQTT broker and an HTTP server, away and back, beside lines in a file."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import threading
import time
from functools import partial
from pathlib import Path

import jinja2
import numpy as np
import pytest
from PIL import Image

from brokers import broker, receiver, settled
from moving import detector, passing
from programs import needs
from service import QUICK, WATCH, WINDOWS, arrive
from serving import GOLDEN, eventually, serving
from test_tracking_service import TRACKING, put

LINES = '[[output]]\nwhere = "out.jsonl"\n'


def mqtt(port: int, more: str = "") -> str:
    return f'[[output]]\nkind = "mqtt"\nwhere = "edgeloop/kitchen"\nport = {port}\ndevice = "kitchen"\n{more}\n'


def webhook(address: str, more: str = "") -> str:
    return f'[[output]]\nkind = "http"\nwhere = "{address}"\ndevice = "kitchen \u00e9"\n{more}\n'


@needs("mosquitto")
def test_a_broker_that_is_away_loses_nothing_and_gets_nothing_twice(inbox: Path, tmp_path: Path) -> None:
    with broker() as here, serving(tmp_path, WATCH + QUICK + LINES + mqtt(here.port)) as agent:
        arrive(inbox, "a.csv")
        eventually(lambda: len(here.answers("edgeloop/kitchen")) == WINDOWS)
        assert here.of("edgeloop/kitchen/status") == [b"online"]
        here.stop()
        arrive(inbox, "b.csv")
        eventually(lambda: len(agent.lines) == 2 * WINDOWS)  # inference goes on
        eventually(lambda: agent.metric("edgeloop_agent_outputs_waiting") == WINDOWS)
        os.kill(agent.worker(), signal.SIGKILL)  # what waits is on the disk
        agent.wait_ready(2)
        assert agent.metric("edgeloop_agent_outputs_waiting") == WINDOWS
        arrive(inbox, "c.csv")
        eventually(lambda: len(agent.lines) == 3 * WINDOWS)
        here.start()
        eventually(lambda: len(here.answers("edgeloop/kitchen")) >= 3 * WINDOWS)
        assert settled(lambda: len(here.answers("edgeloop/kitchen"))) == 3 * WINDOWS
        got = here.answers("edgeloop/kitchen")
        assert len({answer["id"] for answer in got}) == 3 * WINDOWS and [a["input"] for a in got] == [
            x["input"] for x in agent.lines
        ]
        assert [a["label"] for a in got] == [x["label"] for x in agent.lines] and got[0]["device"] == "kitchen"
        assert got[0]["confidence"] == got[0]["probabilities"][got[0]["label"]] and re.fullmatch(r"[-\dT:.]+Z", got[0]["time"])
        assert agent.metric("edgeloop_agent_outputs_waiting") == 0 and agent.metric("edgeloop_agent_dropped_total") == 0
        worker = agent.worker()
        agent.process.send_signal(signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: here.of("edgeloop/kitchen/status")[-1] == b"offline")  # the broker says it for the device


@needs("mosquitto")
def test_home_assistant_finds_the_device_and_its_templates_read_the_answers(tmp_path: Path) -> None:
    for name in ("squares", "in"):
        (tmp_path / name).mkdir()
    squares = detector(tmp_path / "squares")
    more = 'discovery = "homeassistant"\npicture = true\nonly_changes = true\n'
    with broker() as here, serving(tmp_path, WATCH + TRACKING + LINES + mqtt(here.port, more), squares) as agent:
        frames = passing()
        put(tmp_path / "in", frames, "a")
        eventually(lambda: len(agent.lines) == len(frames))
        settled(lambda: len(here.messages), 1.0)
        answers = here.answers("edgeloop/kitchen")
        assert 3 < len(answers) < len(frames)  # changes alone: of labels, lines and zones
        pictures = here.of("edgeloop/kitchen/picture")
        assert len(pictures) == len(answers) and Image.open(io.BytesIO(pictures[-1])).size == frames[0].shape[1::-1]
        ((topic, payload),) = {(t, p) for t, p, _ in here.messages if t.startswith("homeassistant/device/")}
        assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)
        found = json.loads(payload)
        assert found["availability_topic"] == "edgeloop/kitchen/status" and found["device"]["name"] == "kitchen"
        components, last = found["components"], answers[-1]
        assert all({"platform", "unique_id", "name"} <= part.keys() for part in components.values())
        shown = {
            name: jinja2.Environment().from_string(part["value_template"]).render(value_json=last)
            for name, part in components.items()
            if "value_template" in part
        }
        assert {name: shown[name] for name in ("door_to_right", "door_to_left", "hall_now")} == {
            "door_to_right": str(last["lines"][0]["to_right"]), "door_to_left": str(last["lines"][0]["to_left"]),
            "hall_now": str(last["zones"][0]["now"]),
        }  # fmt: skip
        counts = {name: str(last["counts"].get(name, 0)) for name in ("red", "blue")}
        assert {name: shown[name] for name in counts} == counts and float(shown["latency"]) >= 0
        before = len(here.of(topic))
        import paho.mqtt.publish as publish

        publish.single("homeassistant/status", "online", port=here.port)  # it started again, and has forgotten
        eventually(lambda: len(here.of(topic)) > before, 20)


def test_a_server_that_refuses_waits_and_hangs(inbox: Path, tmp_path: Path) -> None:
    """503 first, then 400 for the third answer, which is for that alone; then it redirects, and hangs; in the end it takes the rest."""
    said = {0: (503, {"Retry-After": "1"}), 3: (400, {}), 5: (302, {"Location": "http://127.0.0.1:9/"}), 8: None}
    with receiver(lambda number: said.get(number, (204, {}))) as there:
        (tmp_path / "token").write_text("secret\n")
        config = WATCH + QUICK + LINES + webhook(there.address, 'token_file = "token"\ntimeout_seconds = 1.0\n')
        with serving(tmp_path, config) as agent:
            arrive(inbox, "a.csv")
            eventually(lambda: len(agent.lines) == WINDOWS, 5)
            eventually(lambda: len(there.requests) == WINDOWS - 1)
            assert settled(lambda: len(there.requests)) == WINDOWS - 1
            assert agent.metric("edgeloop_agent_dropped_total") == 1 and "messages are refused for good" in agent.log
            assert 'why="status 302; redirects are not followed: name the address itself"' in agent.log
            assert 'why="status 503"' in agent.log and agent.metric("edgeloop_agent_outputs_waiting") == 0
        head, body = there.requests[0]
        assert head["ce-id"] == body["id"] and head["ce-specversion"] == "1.0" and head["ce-source"] == "/devices/kitchen%20%C3%A9"
        assert head["authorization"] == "Bearer secret" and body["model"] == "exercise_watch" and "window" in body
        assert len({body["id"] for _, body in there.requests}) == WINDOWS - 1


def test_a_reload_with_a_file_that_is_not_there_keeps_the_old_config(inbox: Path, tmp_path: Path) -> None:
    with receiver() as there, serving(tmp_path, WATCH + QUICK + LINES + webhook(there.address)) as agent:
        worker, config = agent.worker(), tmp_path / "agent.toml"
        config.write_text(config.read_text().replace('device = "kitchen', 'token_file = "nope"\ndevice = "kitchen'))
        agent.process.send_signal(signal.SIGHUP)
        eventually(lambda: "config has problems: the old one stays in use" in agent.log)
        arrive(inbox, "a.csv")
        eventually(lambda: len(there.requests) == WINDOWS)
        assert agent.worker() == worker


@needs("mosquitto")
def test_why_a_broker_is_not_reached_is_said(tmp_path: Path) -> None:
    text = '[[output]]\nkind = "mqtt"\nwhere = "a"\nhost = "no.such.host.invalid"\n'
    with broker() as here:
        secure = f'[[output]]\nkind = "mqtt"\nwhere = "b"\nport = {here.port}\ntls = true\n'  # the broker speaks plainly
        (tmp_path / "in").mkdir()
        with serving(tmp_path, WATCH + QUICK + LINES + text + secure) as agent:
            arrive(tmp_path / "in", "a.csv")
            eventually(lambda: agent.log.count("cannot connect: no such host, nobody listens there, or TLS on one side alone") >= 2)


def test_what_waits_at_the_end_is_sent_by_the_next_start(inbox: Path, tmp_path: Path) -> None:
    with receiver(lambda _: (503, {})) as there:
        config = f'{WATCH}after = "delete"\n{QUICK}{LINES}' + webhook(there.address, 'format = "json"\n')
        with serving(tmp_path, config) as agent:
            arrive(inbox, "a.csv")
            eventually(lambda: len(agent.lines) == WINDOWS)
            agent.process.send_signal(signal.SIGTERM)
            assert agent.process.wait(20) == 0
        there.reply = lambda _: (200, {})
        with serving(tmp_path, config):
            eventually(lambda: len({body["id"] for _, body in there.requests}) == WINDOWS)
        assert "ce-id" not in there.requests[0][0]


@pytest.mark.parametrize(
    ("text", "says"),
    {
        "rules of another kind": ('[[output]]\nqos = 2\n', "output[0].qos: is for outputs of kind mqtt; this one is lines"),
        "no address": ('[[output]]\nkind = "http"\nwhere = "hook"\n', "output[0].where: 'hook' is not an address"),
        "a wildcard": ('[[output]]\nkind = "mqtt"\nwhere = "a/#"\n', "output[0].where: 'a/#' is not a topic"),
        "a port": ('[[output]]\nkind = "http"\nwhere = "http://h:99999/"\n', "output[0].where: 'http://h:99999/' is not an address"),
        "no host": ('[[output]]\nkind = "http"\nwhere = "http:///x"\n', "is not an address"),
        "a password in it": ('[output]\nkind = "http"\nwhere = "http://u:pw@h/"\n', "an address with a name or password in it"),
        "a broker's address": ('[output]\nkind = "mqtt"\nwhere = "a"\nhost = "mqtt://h"\n', "output.host: 'mqtt://h' is not a host"),
        "a port in it": ('[output]\nkind = "mqtt"\nwhere = "a"\nhost = "h:1"\n', "output.host: 'h:1' is not a host"),
        "no token": ('[output]\nkind = "http"\nwhere = "http://h/"\ntoken_file = "nope"\n', "output.token_file:"),
        "two lines": ('[output]\nkind = "http"\nwhere = "http://h/"\ntoken_file = "two"\n', "must hold one line"),
        "an empty one": ('[output]\nkind = "http"\nwhere = "http://h/"\ntoken_file = "empty"\n', "must hold one line"),
        "no certificate": ('[output]\nkind = "http"\nwhere = "http://h/"\nca_file = "two"\n', "holds no certificate"),
        "a folder": ('[output]\nwhere = "."\n', "is a folder; name a file in it"),
        "twice": ('[[output]]\nwhere = "a"\n[[output]]\nwhere = "a"\n', "output[1].where:"),
        "a word": ('[[output]]\nkind = "mqt"\nwhere = "a"\n', "output[0].kind:"),
        "unknown": ('[[output]]\nwher = "a"\n', "output[0].wher: unknown setting; did you mean where?"),
        "unknown of one": ('[output]\nwher = "a"\n', "output.wher: unknown setting; did you mean where?"),
        "a password alone": ('[[output]]\nkind = "mqtt"\nwhere = "a"\npassword_file = "x"\n', "a password without a username"),
        "a label": ('[output]\nlabels = ["nothing"]\n', "output.labels: exercise_watch has no label 'nothing'"),
    }.values(),
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_start(text: str, says: str, tmp_path: Path) -> None:
    from commands import command, sentence

    (tmp_path / "two").write_text("SECRET\nlines\n")
    (tmp_path / "empty").write_text("\n")
    path = tmp_path / "agent.toml"
    path.write_text(f'bundles = ["{GOLDEN}"]\nstate = "state"\n{text}')
    done = command("edgeloop-agent", "check", path)
    assert says in sentence(done, 2) and "SECRET" not in done.stderr


def test_ten_thousand_answers_a_queue_of_a_megabyte(tmp_path: Path) -> None:
    """The oldest go, and are counted; the file keeps its ceiling; nobody waits."""
    from edgeloop_agent.answering import AnswerLine
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.outputs.delivery import Delivery
    from edgeloop_agent.outputs.messages import Speaker
    from edgeloop_agent.outputs.sending import Delivered
    from edgeloop_contract.archive import Bundle

    class Away:
        where = "nowhere"

        def send(self, messages: object) -> Delivered:
            time.sleep(0.2)
            return Delivered(0, why="away")

        def use(self, manifest: object) -> None: ...
        def close(self) -> None: ...

    with Bundle.open(GOLDEN) as bundle:
        manifest = bundle.manifest
    counts, path = Counts(), tmp_path / "q.sqlite"
    delivery = Delivery(Away(), Speaker("d", manifest), path, 1 << 20, counts, Log("error"))
    delivery.start()
    slowest = 0.0
    for number in range(10_000):
        start = time.perf_counter()
        delivery.put(AnswerLine(f"frame {number}", 0, "walk", {"walk": 1.0}), np.zeros((4, 4, 3), np.uint8))
        slowest = max(slowest, time.perf_counter() - start)
        if number % 500 == 0:
            time.sleep(0.02)
    delivery.stop()
    delivery.close(time.monotonic() + 1)
    waiting = counts.outputs_waiting["nowhere"]
    assert waiting + counts.dropped["output"] == 10_000 and 500 < waiting < 5_000
    assert sum(file.stat().st_size for file in tmp_path.glob("q.sqlite*")) <= 3 << 20


def test_lines_that_nobody_takes_have_a_bound_and_hold_nobody_up(tmp_path: Path) -> None:
    """A reader that hangs: of a live source the oldest lines go, counted and said; a source that waits loses none."""
    from edgeloop_agent.config import Output
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.outputs.lines import LineOutput
    from edgeloop_agent.outputs.ticket import Ticket

    os.mkfifo(tmp_path / "pipe")
    said, counts = io.StringIO(), Counts()
    output = LineOutput(Output(where=str(tmp_path / "pipe"), max_bytes=1 << 40), counts, Log("info", said))
    written: dict[int, bool] = {}
    began = time.monotonic()
    for number in range(24):  # MiB each; 16 may wait
        output.put([{"n": number, "x": "x" * (1 << 20)}], Ticket(partial(written.__setitem__, number), 1), last=True)
    assert time.monotonic() - began < 5 and written and not any(written.values())
    lost = len(written)
    assert counts.dropped["output"] == lost >= 8 and "16 MiB wait for a disk or a reader" in said.getvalue()
    asked: list[int] = []
    output.put([{"n": 24}], None, True, lambda: not asked.append(1) and len(asked) < 3)  # small: there may be room at once
    output.put([{"x": "x" * (1 << 21)}], None, True, lambda: not asked.append(1) and len(asked) < 3)  # type: ignore[func-returns-value]
    assert asked  # whoever may wait is asked, again and again
    with (tmp_path / "pipe").open("rb") as reader:
        thread = threading.Thread(target=output.close, args=(time.monotonic() + 20,))
        thread.start()
        numbers = []
        while (line := reader.readline()) and not line.startswith(b'{"x"'):
            numbers.append(json.loads(line)["n"])
        thread.join()
    assert numbers == sorted(numbers) and numbers[-1] == 24 and {n for n, taken in written.items() if taken} <= set(numbers)
