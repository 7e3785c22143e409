"""A hub and an agent: a new agent comes by a rollout, checks itself, is tried, kept or given back. The packaged one is the floor."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import command
from edgeloop_agent.launcher import packaged
from hubs import Hub, running_hub
from serving import RECORDING, Agent, eventually, write_config
from wheels import agent_wheel, installed_wheels, kept_running

WINDOWS = 48


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    installed_wheels(folder)
    return folder


def text_for(hub: Hub, name: str, more: str = "", health: float = 1.0) -> str:
    updates = f'[updates]\nhub = "{hub.address}"\nagent = "{name}"\npoll_seconds = 0.4\nhealth_seconds = {health}\n'
    return f'[source]\nkind = "watch"\nwhere = "in"\nafter = "delete"\npoll_seconds = 0.1\n[limits]\nrestart_seconds = 0.1\n{updates}{more}'


def roll_out(
    hub: Hub, folder: Path, needed: Path, name: str, version: str, change: Callable[[str, str], str] = lambda _, text: text
) -> str:
    wheels, house = folder / f"wheels-{version}", folder / f"{version}.wheelhouse"
    shutil.copytree(needed, wheels)
    agent_wheel(wheels, version, change)
    assert f"agent {version} for Python 3." in hub.edgeloop("pack-agent", wheels, "--out", house)
    target = hub.edgeloop("publish", house, "--agent", name).split(":")[0]
    said = hub.edgeloop("rollout", "start", target, "--steps", "100%", "--soak-minutes", "0.001")
    return said.split()[1]


def dies(place: str, text: str) -> str:
    """An agent that checks itself well, and whose worker dies at work."""
    return text.replace("TICK_SECONDS = 0.2", "TICK_SECONDS = os._exit(9)") if place.endswith("agent/worker.py") else text


def followed(hub: Hub, name: str) -> dict:
    return next((o for d in hub.get("/api/v1/devices") if d["name"] == name for o in d["others"]), {})


@pytest.mark.long
def test_a_new_agent_is_taken_and_kept_and_a_broken_one_is_given_back(hub: Hub, needed: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = text_for(hub, "pi")
    hub.enrol(write_config(tmp_path, text), "pi-1")
    with kept_running(tmp_path, text) as agent:
        eventually(lambda: followed(hub, "pi-1"))
        number = roll_out(hub, tmp_path, needed, "pi", "7.0.1")
        eventually(lambda: "agent committed" in agent.log)
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        eventually(lambda: followed(hub, "pi-1")["version"] == 1)
        eventually(lambda: hub.get("/api/v1/devices")[0]["heartbeat"]["agent"] == "7.0.1")
        assert "0 failed" in hub.edgeloop("rollout", "status", number)
        assert "ended with" not in agent.log  # one process all the time
        second = command("edgeloop-agent", "serve", tmp_path / "agent.toml")
        assert (second.returncode, "another agent (process" in second.stderr) == (2, True), second.stderr  # counts no start

        eventually(lambda: hub.run("tick") is not None and "done" in hub.edgeloop("rollout", "status", number))
        number = roll_out(hub, tmp_path, needed, "pi", "7.0.2", dies)
        eventually(lambda: "started 3 times without passing its trial" in agent.log)
        shutil.copy(RECORDING, tmp_path / "in" / "b.csv")
        eventually(lambda: len(agent.lines) == 2 * WINDOWS)
        eventually(lambda: "1 failed" in hub.edgeloop("rollout", "status", number))
        assert hub.get("/api/v1/devices")[0]["heartbeat"]["agent"] == "7.0.1"
        said = [e["text"] for e in hub.get("/api/v1/events") if e["source"] == "pi-1" and e["kind"] == "installed"]
        assert any(text.startswith(f"by 1 of {len(list(needed.iterdir())) + 1} wheels") for text in said)

        hub.edgeloop("rollout", "abort", number)
        back = hub.edgeloop("publish", "--agent", "pi", "--shipped").split(":")[0]
        number = hub.edgeloop("rollout", "start", back, "--steps", "100%").split()[1]
        eventually(lambda: agent.log.count("agent committed") == 2)
        eventually(lambda: hub.get("/api/v1/devices")[0]["heartbeat"]["agent"] == packaged()["version"])
        assert followed(hub, "pi-1")["version"] == 3 and "0 failed" in hub.edgeloop("rollout", "status", number)
        shutil.copy(RECORDING, tmp_path / "in" / "c.csv")
        eventually(lambda: len(agent.lines) == 3 * WINDOWS)

        def told() -> list[str]:
            return sorted(e["kind"] for e in hub.get("/api/v1/events") if e["source"] == "pi-1" and "agent-pi" in e["target"])

        eventually(lambda: len(told()) >= 6)  # the last one is told with the next report
    assert told() == ["committed", "committed", "installed", "installed", "installed", "rolled-back"]


def supervisor(agent: Agent) -> int:
    """What the loop of `kept_running` has started."""
    children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children")
    return int(eventually(lambda: children.read_text().split())[0])


def kills(agent: Agent, at: str) -> None:
    """The supervisor is killed once its log says so; what keeps it running starts the launcher."""
    known, ended = agent.log.count(at), agent.log.count("ended with")
    eventually(lambda: agent.log.count(at) > known)
    os.kill(supervisor(agent), signal.SIGKILL)
    eventually(lambda: agent.log.count("ended with") > ended)


@pytest.mark.long
def test_a_supervisor_that_is_killed_in_any_phase_starts_an_agent_that_serves(hub: Hub, needed: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = text_for(hub, "shed", health=3.0)
    hub.enrol(write_config(tmp_path, text), "shed-1")
    with kept_running(tmp_path, text) as agent:
        eventually(lambda: followed(hub, "shed-1"))
        installing = tmp_path / "state" / "updates" / "others" / "agent%3Ashed"
        roll_out(hub, tmp_path, needed, "shed", "7.0.1")
        for phase in ("env-a.partial", "slot-a.wheelhouse", "env-a"):  # the updater may outlive its supervisor, and goes on
            eventually(lambda phase=phase: (installing / phase).exists())
            os.kill(supervisor(agent), signal.SIGKILL)
        kills(agent, "agent on trial")
        eventually(lambda: "agent committed" in agent.log)
        kills(agent, "updates result")
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
        eventually(lambda: hub.get("/api/v1/devices")[-1]["heartbeat"]["agent"] == "7.0.1")


@pytest.mark.long
def test_an_agent_that_does_not_start_at_all_is_given_back_by_the_launcher(hub: Hub, needed: Path, tmp_path: Path) -> None:
    """Its check of itself passes; its supervisor does not even begin."""
    (tmp_path / "in").mkdir()
    text = text_for(hub, "loft")
    hub.enrol(write_config(tmp_path, text), "loft-1")

    def broken(place: str, text: str) -> str:
        return "import gone\n" if place.endswith("agent/supervisor.py") else text

    with kept_running(tmp_path, text) as agent:
        eventually(lambda: followed(hub, "loft-1"))
        roll_out(hub, tmp_path, needed, "loft", "7.0.1", broken)
        eventually(lambda: "started 3 times without passing its trial" in agent.log)
        assert agent.log.count("No module named 'gone'") == 3
        eventually(lambda: agent.log.count(" ready ") == 2)
        shutil.copy(RECORDING, tmp_path / "in" / "a.csv")
        eventually(lambda: len(agent.lines) == WINDOWS)
