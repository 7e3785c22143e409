"""The agent's own update on a device: installed, tried, started, kept, given back; what is refused; power cuts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import power_cuts
from agent_bench import AgentBench, house_of, left, offered, stand_in, taken
from commands import HERE, command
from edgeloop_agent import launcher
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.updates import environments
from edgeloop_agent.updates.agent_trial import agent_trial
from edgeloop_agent.updates.journal import Journal
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import Event
from hubs import version
from programs import needs
from serving import GOLDEN, eventually
from wheels import wheel


@pytest.fixture
def device(tmp_path: Path) -> AgentBench:
    return AgentBench(tmp_path)


def test_an_agent_is_installed_beside_started_on_trial_and_kept(device: AgentBench) -> None:
    assert device.running().version == 0
    taken(device, 2)
    assert "running already" in device.turn()
    taken(device, 3)
    assert device.running().version == 3 and left(device) == {"env-a", "env-b"}
    taken(device, 4)
    assert left(device) == {"env-a", "env-b"}  # two environments at most, and no download
    assert [e.kind for e in device.journal.load().events] == ["installed"] * 3


def test_three_starts_without_a_passed_trial_give_it_back(device: AgentBench) -> None:
    taken(device, 2)
    offered(device, 3)
    assert [device.running().version for _ in range(5)] == [3, 3, 3, 2, 2]
    assert [e.kind for e in device.journal.load().events] == ["installed", "installed", "rolled-back"]
    assert "is staged" not in device.turn() and left(device) == {"env-a"}  # what failed takes no room


def test_a_trusted_agent_that_never_becomes_ready_is_given_back_too(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    launcher_folder = str(device.journal.path)
    monkeypatch.setenv(launcher.FOLDER, launcher_folder)
    launcher.started()
    assert [device.running().version for _ in range(7)] == [2] * 5 + [0, 0]
    assert "without becoming ready" in device.journal.load().events[-1].text


def test_a_packaged_agent_that_is_not_older_wins(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    known = launcher.packaged()
    for later, runs in (("9.0.1", 2), ("9.0.2rc1", 2), ("9.0.2", 0), ("9.1", 0)):
        monkeypatch.setenv(launcher.LAUNCHER, json.dumps({**known, "version": later}))
        assert device.running().version == runs, later
    assert "the later one of them serves" in offered(device, 3)
    monkeypatch.delenv(launcher.LAUNCHER)
    assert device.running().version == 2


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.1.0", "0.2.0"), ("0.9", "0.10"), ("1.0rc1", "1.0"), ("1.0.dev3", "1.0a1"), ("1.0", "1.0.post1"), ("?", "0.0.1")],
)
def test_versions_are_told_apart(older: str, newer: str) -> None:
    assert launcher.is_newer(newer, older) and not launcher.is_newer(older, newer) and not launcher.is_newer(newer, newer)


@pytest.mark.parametrize("file", ["edgeloop_agent/cli.py", "edgeloop_agent/data.bin", "agent.json"])
def test_an_environment_that_is_not_whole_is_not_started(file: str, device: AgentBench) -> None:
    taken(device, 2)
    taken(device, 3)
    slot = device.journal.load().active
    path = device.journal.path / f"env-{slot}" / file
    path.write_bytes(path.read_bytes()[:-1])
    assert device.running().version == 0  # the packaged one
    assert "running already" not in device.turn()  # it is installed again, beside
    assert device.running().version == 3


def test_a_fleet_that_goes_back_takes_what_is_still_installed(device: AgentBench) -> None:
    taken(device, 2)
    taken(device, 3)
    device.repository.files = {n: f for n, f in device.repository.files.items() if "-pi-3" not in n}
    device.repository.publish()
    for file in (device.repository.folder / "targets").iterdir():
        file.unlink()  # nothing is downloaded for it
    assert "is staged" in device.turn()
    assert device.running().version == 2


def test_an_agent_that_is_followed_no_more_leaves_no_files(device: AgentBench) -> None:
    taken(device, 2)
    path = device.journal.path
    device.path.write_text(device.path.read_text().replace('agent = "pi"', 'agent = "other"'))
    device.config = launcher_config(device)
    assert device.running().version == 0
    device.turn()
    assert not list(path.glob("env-*"))


def launcher_config(device: AgentBench) -> Any:
    from edgeloop_agent.config import load

    return load(device.path)


NONSENSE: dict[str, str] = {
    "no JSON": "{",
    "a list": "[]",
    "a trial of nothing": '{"trial": "x"}',
    "a slot that is a number": '{"active": "a", "a": 3}',
    "a slot outside": '{"active": "../../a", "../../a": {"sha256": "x", "target": "t"}}',
    "a trial without boots": '{"trial": {"slot": "b", "boots": null}}',
}


@pytest.mark.parametrize("what", NONSENSE)
def test_a_journal_of_nonsense_starts_the_packaged_agent(
    what: str, device: AgentBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device.journal.path.mkdir(parents=True)
    (device.journal.path / "journal.json").write_text(NONSENSE[what])
    monkeypatch.delenv(launcher.AGENT, raising=False)
    launcher.launch(device.path)
    assert (os.environ.pop(launcher.AGENT), os.environ.pop(launcher.SEEN) != "") == ("", True)


def test_a_later_agents_journal_is_read_and_what_it_added_is_kept_by_the_launcher(device: AgentBench) -> None:
    taken(device, 2)
    offered(device, 3)
    path = device.journal.path / "journal.json"
    later = json.loads(path.read_bytes())
    later["trial"]["boots"], later["added"], later["a"]["added"] = 3, {"by": "a later agent"}, 1
    path.write_text(json.dumps(later))
    assert device.running().version == 2  # given back by the launcher, which is older
    assert json.loads(path.read_bytes())["added"] == {"by": "a later agent"}
    assert device.journal.load().active is not None  # this agent reads it
    earlier = {name: value for name, value in later.items() if name in ("active", "a", "b", "bad")}
    assert msgspec.json.decode(json.dumps(earlier), type=Journal).a is not None


def test_the_launcher_needs_nothing_that_an_update_brings() -> None:
    probe = "import sys; import edgeloop_agent.launcher; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    ours = {m for m in done.stdout.split() if m.startswith("edgeloop")}
    assert not {"msgspec", "numpy", "tuf"} & set(done.stdout.split())
    assert ours <= {
        "edgeloop_agent", "edgeloop_agent.launcher", "edgeloop_agent.plain_journal", "edgeloop_agent.state_folder",
        "edgeloop_agent.logs", "edgeloop_contract", "edgeloop_contract.errors", "edgeloop_contract.files",
    }  # fmt: skip


def test_a_wheel_says_what_its_agent_reads() -> None:
    said = json.loads((HERE.parent / "device_agent" / "edgeloop_agent" / "reads.json").read_text())
    assert said == {"reads": SCHEMA, "journal": environments.JOURNAL}


def test_a_worker_asks_for_the_launcher_once_for_each_change_of_the_journal(
    device: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the launcher cannot write, it starts the agent that is there; to be asked again at once would be a loop."""
    asked: list[int] = []
    offered(device, 2)
    with monkeypatch.context() as patch:
        patch.setattr("edgeloop_agent.launcher.try_change", lambda *_: False)
        launcher.launch(device.path)
    monkeypatch.setenv(launcher.AGENT, os.environ.pop(launcher.AGENT))
    monkeypatch.setenv(launcher.SEEN, os.environ.pop(launcher.SEEN))
    trial = agent_trial(device.journal, Counts(), Log("error"), device.config.updates, lambda: asked.append(1))
    trial.tick()
    assert not asked
    device.journal.change(lambda j: j.noted(Event(key="k" * 16, kind="x", at=1.0)))
    trial.tick()
    trial.tick()
    assert asked == [1]


def checked(device: AgentBench) -> str:
    """What this agent finds when it checks itself on the device."""
    done = subprocess.run([sys.executable, "-m", "edgeloop_agent.updates.self_check", device.path], capture_output=True, check=True)
    return str(json.loads(done.stdout)["problem"])


def test_an_agent_that_checks_itself_reads_the_config_the_bundles_and_the_journals(device: AgentBench, tmp_path: Path) -> None:
    assert checked(device) == "" and not (device.folder.path / "self-check").exists()
    text = device.path.read_text()
    device.path.write_text(f"{text}[thermal]\nwarmth = 1\n")
    assert "thermal.warmth" in checked(device)
    device.path.write_text(text.replace(str(GOLDEN), str(version(tmp_path, 5, spoil=True))))
    assert checked(device).startswith("canary scores of tflite-int8")
    device.path.write_text(text)
    taken(device, 2)
    journal = device.journal.path / "journal.json"
    journal.write_text(journal.read_text().replace('"active":"a"', '"active":["a"]'))
    assert "this agent does not read it" in checked(device)


def test_the_commands_stage_an_agent_and_say_which_one_serves(device: AgentBench) -> None:
    device.offer(2)
    device.repository.publish()
    said = command("edgeloop-agent", "check", device.path).stdout
    assert "agent: follows pi; the packaged agent" in said
    assert "agent-pi-2.wheelhouse is staged" in command("edgeloop-agent", "update", device.path).stdout
    assert "9.0.2 (agent-pi-2.wheelhouse) serves in place of the packaged" in command("edgeloop-agent", "check", device.path).stdout


HANGS = """
import signal, sys, time
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
print("hangs", flush=True)
time.sleep(60)
"""
LAUNCH = """
import sys
from pathlib import Path
from edgeloop_agent import launcher, trial_guard
trial_guard.MARGIN_SECONDS, trial_guard.STOP_SECONDS = -309.0, 0.5
launcher.launch(Path(sys.argv[1]))
print("packaged", flush=True)
"""


def test_an_agent_that_hangs_in_its_trial_is_given_back_from_outside(device: AgentBench, tmp_path: Path) -> None:
    """It ignores every request, so it is killed; what starts the agent again starts the old one."""
    health = "health_seconds = 10.0"
    device.path.write_text(device.path.read_text().replace("[updates]\n", f"[updates]\n{health}\n"))
    device.config = launcher_config(device)
    files = {**stand_in(2), "edgeloop_agent/cli.py": HANGS}
    device.offer_house(house_of(tmp_path, [wheel(tmp_path / "w", "edgeloop", "9.0.2", files)]), 2)
    device.repository.publish()
    assert "is staged" in device.turn()
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LAUNCH, device.path], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL and "hangs" in done.stdout and time.monotonic() - began < 15
    eventually(lambda: device.journal.load().trial is None)
    assert "not healthy within 1 s" in device.journal.load().events[-1].text
    assert list(launcher.chosen(device.path, launcher._table(device.path), Log("error"))) == []


@pytest.mark.long
@needs("strace")
@pytest.mark.parametrize("about", power_cuts.AGENTS)
def test_killed_or_without_power_at_any_call_an_agent_serves(about: Any, tmp_path: Path) -> None:
    for what, points, _, wrong in power_cuts.cuts(tmp_path, 5, 10, [about]):
        assert not wrong, (what, wrong[:3])
        assert points > 5
