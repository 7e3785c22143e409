"""The signed way back to what a device was shipped with: the packaged agent, its own config, the config's own bundle."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_bench import AgentBench, left, taken
from commands import command
from edgeloop_agent import launcher
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.updates.agent_trial import agent_trial
from edgeloop_agent.updates.config_trial import config_trial
from edgeloop_agent.updates.journal import Running
from edgeloop_agent.updates.offers import Offer, SignedTargets
from edgeloop_agent.updates.policy import Install, Stay, decide
from edgeloop_contract.publications import SHIPPED
from serving import GOLDEN
from update_bench import Bench, ConfigBench, offer_shipped


@pytest.fixture
def device(tmp_path: Path) -> AgentBench:
    return AgentBench(tmp_path)


def sent_back(bench: Bench, number: int, model: str = "agent:pi") -> str:
    offer_shipped(bench, number, model)
    bench.repository.publish()
    return bench.turn()


def test_the_packaged_agent_is_tried_and_kept_without_a_download_and_left_again(device: AgentBench) -> None:
    taken(device, 2)
    assert "agent-pi-3.shipped is staged" in sent_back(device, 3)
    assert device.running() == Running("agent:pi", 3, device.started or "")
    device.taken()
    assert [device.running().version for _ in range(8)] == [3] * 8  # it is below nothing: its starts do not run out
    assert "running already" in device.turn() and left(device) == {"env-a"}
    taken(device, 4)
    assert device.running().version == 4 and left(device) == {"env-a"}


def test_a_packaged_agent_that_fails_its_trial_leaves_the_installed_one(device: AgentBench) -> None:
    taken(device, 2)
    sent_back(device, 3)
    assert [device.running().version for _ in range(5)] == [3, 3, 3, 2, 2]
    assert "failed here before" in device.turn() or "is staged" not in device.turn()
    assert [e.kind for e in device.journal.load().events] == ["installed", "installed", "rolled-back"]


def test_a_packaged_agent_that_cannot_serve_here_is_not_tried(device: AgentBench) -> None:
    """What was rolled out since is more than it reads: it says so when it checks itself, and nothing is interrupted."""
    taken(device, 2)
    other = device.folder.of_model("second").path
    other.mkdir(parents=True)
    (other / "journal.json").write_text('{"active": ["of a later agent"]}')
    assert "agent-pi-3.shipped did not pass" in sent_back(device, 3)
    assert device.running().version == 2 and left(device) == {"env-a"}


def test_a_packaged_agent_of_before_such_returns_says_what_to_do(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    known = {**launcher.packaged(), "version": "0.0.1"}
    del known["returns"]
    monkeypatch.setenv(launcher.LAUNCHER, json.dumps(known))
    assert "the packaged agent 0.0.1 cannot be tried: take updates.agent out" in sent_back(device, 3)
    assert device.running().version == 2


def test_the_trial_of_the_packaged_agent_is_judged_by_its_worker(device: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken(device, 2)
    sent_back(device, 3)
    monkeypatch.setenv(launcher.AGENT, device.running().sha256)
    monkeypatch.setenv(launcher.FOLDER, str(device.journal.path))
    assert launcher.is_on_trial()
    agent_trial(device.journal, Counts(refused={"x": 20}), Log("error"), device.config.updates, lambda: None).tick()
    assert "refusals" in device.journal.load().events[-1].text
    monkeypatch.delenv(launcher.AGENT)
    assert device.running().version == 2


LAUNCH = "import sys; from pathlib import Path; from edgeloop_agent import launcher; launcher.launch(Path(sys.argv[1]))"


def test_the_launcher_starts_the_packaged_agent_as_on_trial_and_in_its_own_environment(device: AgentBench) -> None:
    """It is the agent of this test's Python, and really serves."""
    taken(device, 2)
    sent_back(device, 3)
    words = [sys.executable, "-c", LAUNCH, device.path]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("agent on trial target=agent-pi-3.shipped" in line for line in process.stderr)
            found = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        finally:
            process.send_signal(signal.SIGTERM)
    trial = device.journal.load().trial
    assert trial is not None and (slot := device.journal.load().slot(trial.slot)) is not None
    assert f"{launcher.AGENT}={slot.sha256}" in found and not any(v.startswith(f"{launcher.LAUNCHER}=") for v in found)
    assert not any("env-" in v for v in found if v.startswith("PYTHONPATH"))


def test_the_commands_say_that_the_packaged_agent_serves(device: AgentBench) -> None:
    taken(device, 2)
    offer_shipped(device, 3, "agent:pi")
    device.repository.publish()
    assert "agent-pi-3.shipped is staged" in command("edgeloop-agent", "update", device.path).stdout
    said = command("edgeloop-agent", "check", device.path).stdout
    assert f"the packaged agent {launcher.packaged()['version']} serves, as agent-pi-3.shipped says" in said


def test_a_config_goes_back_to_the_devices_own_file(tmp_path: Path) -> None:
    following = ConfigBench(tmp_path)
    following.offer(2)
    following.repository.publish()
    following.turn()
    following.taken()
    assert "config-kitchen-3.shipped is staged" in sent_back(following, 3, "config:kitchen")
    assert following.running().version == 3
    trial = config_trial(following.path, following.journal, Counts(refused={"x": 20}), Log("error"), following.config.updates)
    assert trial.began is None  # a worker that nobody told of a rollout
    following.taken()
    assert following.running().version == 3 and "running already" in following.turn()
    assert following.path.read_text().count("# ") == 0
    following.offer(4)
    following.repository.publish()
    following.turn()
    assert following.running().version == 4


def test_an_own_config_that_fails_its_trial_leaves_the_rolled_out_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    following = ConfigBench(tmp_path)
    following.offer(2)
    following.repository.publish()
    following.turn()
    following.taken()
    sent_back(following, 3, "config:kitchen")
    assert following.running().version == 3
    monkeypatch.setenv("EDGELOOP_ROLLED_OUT_CONFIG", str(following.path))
    monkeypatch.setattr("edgeloop_agent.updates.config_trial.ask_supervisor", lambda: None)
    config_trial(following.path, following.journal, Counts(refused={"x": 20}), Log("error"), following.config.updates).tick()
    assert following.running().version == 2


def test_a_bundle_that_the_config_names_comes_back_without_a_download(bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.taken()
    bench.repository.files.clear()  # version 2 is withdrawn
    name = bench.repository.add(GOLDEN, 1)
    shutil.rmtree(bench.repository.folder / "targets")
    bench.repository.publish()
    assert f"{name} is staged, from the config's own file, without a download" in bench.turn()
    assert bench.running().version == 1


def test_what_the_signed_way_back_is_not_for() -> None:
    def said(model: str, kind: str = SHIPPED) -> Stay | Install:
        signed = SignedTargets(1, 1, {"t": Offer("t", 60, "a" * 64, model, 3, kind)})
        from edgeloop_agent.updates.journal import Journal

        return decide("t", signed, Running(model, 2, "b" * 64), Journal(), 1 << 20)

    assert isinstance(said("agent:pi"), Install) and isinstance(said("config:kitchen"), Install)
    refused = said("exercise_watch")
    assert isinstance(refused, Stay) and refused.refused
    unknown = said("agent:pi", "return-to-the-moon")  # as an earlier agent answers
    assert isinstance(unknown, Stay) and unknown.refused and "which this agent does not know: update edgeloop" in unknown.why
