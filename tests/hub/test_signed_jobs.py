"""Signed jobs from the workstation by a real hub to a real agent, a hub that was taken over, and a device that lies."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from asking import ask, enrolled
from commands import command, sentence
from edgeloop_contract.signed_jobs import JobOrder, JobSignature, SignedJob, signed_bytes
from edgeloop_pipeline.fleet.job_signing import sign
from edgeloop_pipeline.fleet.tuf_keys import Keys
from hubs import Hub, running_hub, version
from serving import RECORDING, eventually, serving, write_config


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def order(*devices: str, kind: str = "logs", **more: Any) -> JobOrder:
    number = more.pop("number", int(time.time() * 1000))
    return JobOrder(number, kind, list(devices), more.pop("expires", number / 1000 + 600), **more)  # type: ignore[arg-type]


def signed(hub: Hub, asked: JobOrder) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(sign(Keys(hub.folder / "keys"), asked))
    return made


def send(hub: Hub, asked: JobOrder) -> int:
    answer = ask(hub, "POST", "/api/v1/signed-jobs", hub.token, signed(hub, asked))
    assert answer.status == 201, answer.data
    return int(answer.json()["number"])


def state(hub: Hub, number: int) -> dict[str, Any]:
    found: dict[str, Any] = ask(hub, "GET", f"/api/v1/signed-jobs/{number}", hub.token).json()
    return found


def test_the_hub_takes_only_what_the_key_signed(hub: Hub) -> None:
    secret = enrolled(hub, "pi-a")
    stranger = CryptoSigner.generate_ed25519()
    asked = msgspec.json.encode(order("pi-a")).decode()
    made = stranger.sign(signed_bytes(asked))
    forged = msgspec.to_builtins(SignedJob(asked, [JobSignature(made.keyid, made.signature)]))
    now = time.time()
    for body, words in (
        (forged, "did not sign"),
        (signed(hub, order("pi-a", "nobody")), "no device nobody"),
        (signed(hub, order("pi-a", number=int((now - 700) * 1000))), "has expired"),
        (signed(hub, order("pi-a", number=int((now + 7200) * 1000))), "in the future"),
        (signed(hub, order("pi-a", kind="bench")), "names its bundle"),
        (signed(hub, order("pi-a", kind="bench", target="gone.edgeloop")), "not published"),
        ({**signed(hub, order("pi-a")), "order": "{}"}, "not a job"),
    ):
        answer = ask(hub, "POST", "/api/v1/signed-jobs", hub.token, body)
        assert answer.status == 400 and words in answer.json()["detail"], (words, answer.data)
    number = send(hub, order("pi-a"))
    assert ask(hub, "POST", "/api/v1/signed-jobs", hub.token, signed(hub, order("pi-a", number=number))).status == 400  # replayed
    assert json.loads(json.loads(ask(hub, "GET", "/api/v1/update", secret).data)["signed_job"])["order"]


def test_a_device_that_lies_harms_nobody_else(hub: Hub) -> None:
    mine, other = enrolled(hub, "pi-b"), enrolled(hub, "pi-c")
    number = send(hub, order("pi-b"))

    def result(secret: str, key: str, **job: Any) -> int:
        return ask(hub, "POST", "/api/v1/report", secret, {"key": key, "at": 1.0, "job": {"id": str(number), **job}}).status

    assert result(other, "not-mine-1", lines=["forged"]) == 200
    assert state(hub, number)["devices"][0]["state"] == "waiting"  # of somebody else's job nobody believes it
    assert result(mine, "too-many-1", lines=["x"] * 61) == 400
    assert result(mine, "too-long-1", lines=["x" * 301]) == 400
    assert result(mine, "too-large-1", refused="x" * 2001) == 400
    assert result(mine, "huge-huge-1", measured={"x": "y" * (1 << 20)}) == 413
    assert result(mine, "deep-deep-1", measured={"x": json.loads("[" * 40 + "]" * 40)}) == 400
    assert state(hub, number)["devices"][0]["state"] == "waiting"
    assert result(mine, "the-answer-1", lines=["<script>alert(1)</script>"]) == 200
    assert result(mine, "the-answer-2", lines=["another"]) == 200  # once
    assert state(hub, number)["devices"][0]["lines"] == ["<script>alert(1)</script>"]
    page = hub.signed_in("vera", "viewer")("/devices/pi-b")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script>alert" not in page
    for odd in ("", "-1", "9" * 40, "x", "１"):
        body = {"key": f"odd-{len(odd)}-{ord(odd[0]) if odd else 0}-key", "at": 1.0, "job": {"id": odd}}
        assert ask(hub, "POST", "/api/v1/report", mine, body).status == 200


def test_a_wish_on_a_page_waits_for_the_key(hub: Hub) -> None:
    secret = enrolled(hub, "pi-d")
    person = hub.signed_in("olga", "operator")
    csrf = person("/devices/pi-d").split('name="csrf" value="')[1].split('"')[0]
    assert "it waits to be signed" in person("/devices/pi-d/job", csrf=csrf, kind="restart")
    assert "signed_job" not in ask(hub, "GET", "/api/v1/update", secret).json()  # the hub alone commands nobody
    assert ask(hub, "GET", "/api/v1/job-wishes", hub.token).json()[0]["who"] == "olga"
    assert "restart for pi-d, asked by olga" in hub.edgeloop("jobs", "sign", "--yes", "--keys", hub.folder / "keys")
    assert '\\"restart\\"' in ask(hub, "GET", "/api/v1/update", secret).json()["signed_job"]
    assert ask(hub, "GET", "/api/v1/job-wishes", hub.token).json() == []
    audited = hub.folder / "audit.jsonl"
    hub.run("audit", "export", audited)
    assert all(action in audited.read_text() for action in ('"device job"', '"job signed"'))


@pytest.mark.long
def test_wrong_words_of_the_command_are_one_sentence(hub: Hub) -> None:
    for words, said in (
        (("logs",), "name devices"), (("logs", "--device", "a", "--group", "b"), "name devices"),
        (("bench", "--device", "a"), "--target"), (("logs", "--device", "a", "--target", "t"), "--target"),
    ):  # fmt: skip
        done = command("edgeloop", "jobs", "send", *words, EDGELOOP_HUB=hub.address, EDGELOOP_HUB_TOKEN=hub.token, cwd=hub.folder)
        assert said in sentence(done, 2)


@pytest.mark.long
def test_the_whole_way_to_an_agent(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with running_hub(tmp_path / "hub") as hub:
        text = f'[source]\nkind = "watch"\nwhere = "in"\n[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\n'
        allowed = text + '[jobs]\nallow = ["logs", "bench", "restart"]\n'
        hub.enrol(write_config(tmp_path, text), "pi-2")
        hub.run("group", "set", "all", "--device", "pi-2")

        def job(*words: object, code: int = 0) -> str:
            return hub.edgeloop("jobs", "send", *words, "--wait-minutes", "1", code=code)

        with serving(tmp_path, text) as agent:
            eventually(lambda: "ready" in agent.log)
            assert "no device did it" in job("restart", "--device", "pi-2", code=6)  # off unless the device says otherwise
            assert "agent restarts" not in agent.log
        with serving(tmp_path, allowed) as agent:
            eventually(lambda: "ready" in agent.log)
            said = job("logs", "--group", "all")
            assert "pi-2: done" in said and "model loaded" in said
            target = hub.publish(version(tmp_path, 2))
            assert '"variants"' in job("bench", "--device", "pi-2", "--target", target)
            before = agent.log.count(" ready")
            shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
            assert "pi-2: done" in job("restart", "--device", "pi-2")
            eventually(lambda: agent.log.count(" ready") == before + 1)
            eventually(lambda: len(agent.lines) == 48)  # each sample is answered once
            _a_hub_that_was_taken_over(hub, agent)
            assert "pi-2: done" in job("logs", "--device", "pi-2")


def _a_hub_that_was_taken_over(hub: Hub, agent: Any) -> None:
    """It has every row and its own key: it replays what was signed, and signs itself."""
    database = sqlite3.connect(hub.folder / "data" / "hub.sqlite", timeout=20)
    ready = agent.log.count(" ready")
    restart = database.execute("SELECT number, document FROM signed_jobs WHERE kind = 'restart' ORDER BY number DESC").fetchone()
    database.execute("UPDATE signed_job_devices SET state = 'waiting' WHERE number = ?", restart[:1])
    database.commit()
    time.sleep(2)
    assert agent.log.count(" ready") == ready and agent.log.count("agent restarts") == 1
    database.execute("UPDATE signed_job_devices SET state = 'done'")
    own = (hub.folder / "data" / "online-key.pem").read_bytes()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    asked = msgspec.json.encode(order("pi-2", kind="restart")).decode()
    made = CryptoSigner(load_pem_private_key(own, None)).sign(signed_bytes(asked))  # type: ignore[arg-type]
    document = msgspec.json.encode(SignedJob(asked, [JobSignature(made.keyid, made.signature)])).decode()
    number = json.loads(asked)["number"]
    database.execute("INSERT INTO signed_jobs VALUES (?, 'restart', '', ?, 'thief', ?)", (number, time.time() + 500, document))
    row = (number, "pi-2", "waiting", time.time() + 500, 0.0, "{}")
    database.execute("INSERT INTO signed_job_devices VALUES (?, ?, ?, ?, ?, ?)", row)
    database.commit()
    eventually(lambda: "the trusted keys did not sign this job" in agent.log)
    assert agent.log.count(" ready") == ready and agent.log.count("agent restarts") == 1
    database.execute("DELETE FROM signed_job_devices WHERE number = ?", (number,))
    database.execute("DELETE FROM signed_jobs WHERE number = ?", (number,))
    database.commit()
