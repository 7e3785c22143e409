"""The hub with the real agent: enrolled, updated, rolled out, sent back; all through the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import command, sentence
from hubs import Hub, running_hub, version
from serving import RECORDING, Agent, eventually, serving, write_config

WINDOWS = 48
SETTINGS = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n[limits]\nrestart_seconds = 0.1\n'
FAST = ("--soak-minutes", "0.001")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def settings(hub: Hub, health_seconds: float = 1.0) -> str:
    return f'{SETTINGS}[updates]\nhub = "{hub.address}"\npoll_seconds = 0.4\nhealth_seconds = {health_seconds}\n'


def device(hub: Hub, folder: Path, name: str, *more: object, health_seconds: float = 1.0) -> str:
    (folder / "in").mkdir(parents=True, exist_ok=True)
    text = settings(hub, health_seconds)
    hub.enrol(write_config(folder, text), name, *more)
    return text


def running_version(agent: Agent) -> str:
    return agent.get("/v2/models/exercise_watch")


def test_a_device_takes_a_new_version_and_answers_all_the_while(hub: Hub, tmp_path: Path) -> None:
    text = device(hub, tmp_path, "pi-1")
    target = hub.publish(version(tmp_path, 2))
    assert "published already" in hub.edgeloop("publish", tmp_path / "exercise_watch-2.edgeloop")
    with serving(tmp_path, text) as agent:
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        eventually(lambda: '"pi-1"' in hub.edgeloop("rollout", "status") or _devices(hub)["pi-1"]["version"] == 1)
        hub.edgeloop("rollout", "start", target, "--steps", "pi-1, 100%", *FAST)
        eventually(lambda: '"versions":["2"]' in running_version(agent))
        shutil.copy(RECORDING, tmp_path / "in" / "b.csv")
        eventually(lambda: len(agent.lines) == 2 * WINDOWS)
        assert [a["label"] for a in agent.lines[:WINDOWS]] == [a["label"] for a in agent.lines[WINDOWS:]]
        eventually(lambda: "update committed" in agent.log)
        eventually(lambda: _devices(hub)["pi-1"]["version"] == 2)
        eventually(lambda: "done" in hub.run("tick"))
        assert agent.metric("edgeloop_agent_worker_restarts_total") == 0
    # A new start runs what was taken.
    with serving(tmp_path, text) as agent:
        assert '"versions":["2"]' in running_version(agent)
    kinds = {e["kind"] for e in _events(hub) if e["source"] == "pi-1"}
    assert {"installed", "committed"} <= kinds


def test_a_bad_version_is_refused_by_the_canary_and_halts_in_the_pilot(hub: Hub, tmp_path: Path) -> None:
    text = device(hub, tmp_path / "p", "pilot-1", "--label", "pilot")
    other = device(hub, tmp_path / "o", "other-1")
    target = hub.publish(version(tmp_path, 30, spoil=True))
    with serving(tmp_path / "p", text) as pilot, serving(tmp_path / "o", other) as bystander:
        eventually(lambda: _devices(hub)["pilot-1"]["version"] and _devices(hub)["other-1"]["version"])
        told = hub.edgeloop("rollout", "power", target, "--steps", "label:pilot, 100%")
        assert "step 1  p95 latency" in told and "a bundle that fails on 30% of them is found in 30%" in told
        number = hub.edgeloop("rollout", "start", target, "--steps", "label:pilot, 100%", *FAST).split()[1]
        eventually(lambda: "failed" in {e["kind"] for e in _events(hub) if e["source"] == "pilot-1"})
        assert "halted" in hub.run("tick")
        shown = hub.edgeloop("rollout", "status", number)
        assert "install failures  BREACHED" in shown and "all of them" in shown
        assert '"versions":["30"]' not in running_version(pilot) + running_version(bystander)
        assert not any("30-" in e["target"] for e in _events(hub) if e["source"] == "other-1")
    hub.edgeloop("rollout", "abort", number)
    hub.edgeloop("withdraw", target)


@pytest.mark.long
def test_a_bundle_that_crashes_is_given_back(hub: Hub, tmp_path: Path) -> None:
    from commands import HERE

    text = device(hub, tmp_path, "pi-crash", health_seconds=120.0)
    target = hub.publish(version(tmp_path, 40))
    fault = {"PYTHONPATH": str(HERE / "support" / "faults"), "FAULT": str(tmp_path / "fault")}
    with serving(tmp_path, text, **fault) as agent:
        before = json.loads(running_version(agent))["versions"]
        eventually(lambda: _devices(hub)["pi-crash"]["version"])
        number = hub.edgeloop("rollout", "start", target, "--steps", "pi-crash", *FAST).split()[1]
        eventually(lambda: "update on trial" in agent.log)
        for crash in range(3):
            (tmp_path / "fault").write_text("crash")
            shutil.copy(RECORDING, tmp_path / "in" / f"{crash}.csv")
            agent.wait_ready(crash + 2)
        eventually(lambda: "update rolled back" in agent.log)
        assert json.loads(running_version(agent))["versions"] == before
        eventually(lambda: "rolled-back" in {e["kind"] for e in _events(hub) if e["source"] == "pi-crash"})
    hub.edgeloop("rollout", "abort", number)
    hub.edgeloop("withdraw", target)


@pytest.mark.long
def test_a_breach_sends_the_cohort_back_by_targets_signed_before(hub: Hub, tmp_path: Path) -> None:
    text = device(hub, tmp_path, "pi-back")
    good = hub.publish(version(tmp_path, 50))
    with serving(tmp_path, text) as agent:
        eventually(lambda: _devices(hub)["pi-back"]["version"])
        hub.edgeloop("rollout", "start", good, "--steps", "100%", *FAST, "--gate", "min_reported=0.1")
        eventually(lambda: '"versions":["50"]' in running_version(agent))
        assert "done" not in hub.run("tick")  # no device has answered anything with it
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: "done" in hub.run("tick"))
        eventually(lambda: "update committed" in agent.log)
        target = hub.publish(version(tmp_path, 51))
        hub.edgeloop(
            "rollout", "start", target, "--steps", "pi-back", "--on-breach", "return", "--gate", "max_install_failures=0.0"
        )
        assert "holds a signed way back" in hub.edgeloop("publish", version(tmp_path, 52), code=8)
        eventually(lambda: '"versions":["51"]' in running_version(agent))
        eventually(lambda: _devices(hub)["pi-back"]["version"] == 51)
        eventually(lambda: "update committed" in agent.log.partition(target)[2])
    # Stopped, so that its own next report cannot say again that it runs well before the tick looks.
    _report_failure(hub, tmp_path, target)
    assert "returned" in hub.run("tick")
    with serving(tmp_path, text) as agent:
        assert '"versions":["51"]' in running_version(agent)
        eventually(lambda: '"versions":["50"]' in running_version(agent))


def _report_failure(hub: Hub, folder: Path, target: str) -> None:
    """What the device would say had it given the bundle back."""
    import secrets
    import time

    from edgeloop_agent.hub_client import HubClient
    from edgeloop_contract.messages import Event, Heartbeat, Report

    secret = json.loads((folder / "state" / "updates" / "credential.json").read_text())["secret"]
    events = [Event(key="a-failure-x", kind="failed", at=time.time(), target=target, text="made up")]
    origin = HubClient(hub.address, secret, "", 10)
    origin.report(
        Report(key=secrets.token_hex(16), at=time.time(), heartbeat=Heartbeat(model="exercise_watch", version=50), events=events)
    )


def test_updates_from_a_folder_without_a_hub(hub: Hub, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    target = hub.publish(version(tmp_path, 60))
    hub.edgeloop("export-updates", stick)
    (tmp_path / "in").mkdir()
    text = f'{SETTINGS}[updates]\nfolder = "{stick}"\npoll_seconds = 0.5\nhealth_seconds = 0.5\n'
    config = write_config(tmp_path, text)
    assert command("edgeloop-agent", "enrol", config, "--root", stick / "metadata" / "1.root.json").returncode == 0
    with serving(tmp_path, text) as agent:
        eventually(lambda: '"versions":["60"]' in running_version(agent))
    hub.edgeloop("withdraw", target)


@pytest.mark.long
def test_measured_on_the_device(hub: Hub, tmp_path: Path) -> None:
    text = device(hub, tmp_path, "pi-bench")
    target = hub.publish(version(tmp_path, 70))
    with serving(tmp_path, text) as agent:
        eventually(lambda: _devices(hub)["pi-bench"]["version"])
        hub.edgeloop("bench", target, "--on", "pi-bench", "--output", tmp_path / "pi.json")
        told = json.loads((tmp_path / "pi.json").read_text())
        rows = told["variants"]
        assert {r["variant"] for r in rows} >= {"onnx-int8", "tflite-int8"} and all(r["cost"] for r in rows)
        assert {k["operation"] for k in told["kernels"]["kernels"]} & {"QLinearConv", "Conv"}
        steady = told["sustained"]
        assert steady["variant"] == told["fastest"]["variant"]
        assert steady["per_second"] > 100
        assert 2**20 < steady["memory_bytes"] < 2**28
        assert (steady["microjoules"] is None) == steady["energy"].startswith("not measured")
        assert '"versions":["70"]' not in running_version(agent)
    hub.edgeloop("withdraw", target)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("rollout", "start", "nothing.edgeloop"), 8, "is not published"),
        (("rollout", "status", "99"), 8, "there is no rollout 99"),
        (("rollout", "start", "x.edgeloop", "--steps", "50%, 25%"), 2, "shares must grow"),
        (("withdraw", "nothing.edgeloop"), 2, "is not published"),
        (("keys", "init", "--keys", "other"), 2, "has keys already"),
    ],
)
def test_wrong_requests_get_a_sentence(hub: Hub, words: tuple[str, ...], code: int, says: str) -> None:
    assert says in hub.edgeloop(*words, code=code)


def test_no_hub_and_no_token_get_a_sentence(tmp_path: Path) -> None:
    done = command("edgeloop", "rollout", "status", "--hub", "http://127.0.0.1:9", EDGELOOP_HUB_TOKEN="x")
    assert "does the hub run there?" in sentence(done, 8)
    assert "EDGELOOP_HUB_TOKEN" in sentence(command("edgeloop", "rollout", "status", "--hub", "http://127.0.0.1:9"), 2)


def _devices(hub: Hub) -> dict[str, dict[str, object]]:
    return {d["name"]: d for d in _get(hub, "/api/v1/devices")}


def _events(hub: Hub) -> list[dict[str, str]]:
    return _get(hub, "/api/v1/events?limit=1000")


def _get(hub: Hub, path: str) -> list[dict[str, object]]:
    import urllib.request

    asked = urllib.request.Request(hub.address + path, headers={"Authorization": f"Bearer {hub.token}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return json.loads(answer.read())
