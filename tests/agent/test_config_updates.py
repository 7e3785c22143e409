"""A config as a signed target, on the device: what is refused, what is chosen at a start, and power cuts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloop_agent.config import SEEN_CONFIGS
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.updates import config_slots
from edgeloop_agent.updates.config_slots import check, choose
from edgeloop_agent.updates.config_trial import config_trial
from edgeloop_contract.messages import Event
from power_cuts import config, config_shipped, cuts
from programs import needs
from update_bench import Bench, ConfigBench


@pytest.fixture
def following(tmp_path: Path) -> ConfigBench:
    return ConfigBench(tmp_path)


def test_a_config_is_staged_chosen_at_the_next_start_and_kept(following: ConfigBench) -> None:
    following.offer(2)
    following.repository.publish()
    assert "config:kitchen: config-kitchen-2.toml is staged" in following.turn()
    assert following.running().version == 2
    following.taken()
    assert following.running().version == 2 and "running already" in following.turn()
    assert following.everything()[0].version == 1  # the bundle is as it was


def test_three_starts_without_a_passed_trial_give_it_back(following: ConfigBench) -> None:
    following.offer(2)
    following.repository.publish()
    following.turn()
    assert [following.running().version for _ in range(5)] == [2, 2, 2, 0, 0]
    assert [e.kind for e in following.journal.load().events] == ["installed", "rolled-back"]
    assert "no target is assigned" in following.turn()


def test_a_config_whose_file_is_gone_since_or_damaged_leaves_the_one_before_it(following: ConfigBench) -> None:
    for number in (2, 3):
        following.offer(number)
        following.repository.publish()
        following.turn()
        following.taken()
    assert following.running().version == 3
    file = following.journal.slot(following.journal.load().active or "")
    file.write_bytes(file.read_bytes()[:-1])
    assert following.running().version == 2


def test_a_worker_asks_for_another_config_once_for_each_change_of_the_journal(
    following: ConfigBench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk no start of a config on trial can be counted, and the one before it runs: to ask at once again would be a loop."""
    asked: list[int] = []
    following.offer(2)
    following.repository.publish()
    following.turn()
    with monkeypatch.context() as patch:
        patch.setattr("edgeloop_agent.updates.slots.try_change", lambda *_: None)
        config_slots.main(following.path, "")
    file, _, seen = capsys.readouterr().out.rpartition("\n")[2].partition("\0")
    assert not file
    monkeypatch.setenv(SEEN_CONFIGS, seen)
    monkeypatch.setattr("edgeloop_agent.updates.config_trial.ask_supervisor", lambda: asked.append(1))
    trial = config_trial(following.path, following.journal, Counts(), Log("error"), following.config.updates)
    trial.tick()
    assert not asked
    following.journal.change(lambda j: j.noted(Event(key="k" * 16, kind="x", at=1.0)))
    trial.tick()
    trial.tick()
    assert asked == [1]


HELD = {
    "another hub": ('folder = "{stick}"', 'hub = "https://elsewhere.example"', "updates.hub"),
    "another folder": ('folder = "{stick}"', 'folder = "/elsewhere"', "updates.folder"),
    "another name": ('config = "kitchen"', 'config = "cellar"', "updates.config"),
    "an agent": ('config = "kitchen"', 'config = "kitchen"\nagent = "pi"', "updates.agent"),
    "another state": ('state = "state"', 'state = "elsewhere"', "state"),
    "a password": ("[output]", '[split]\n[[split.tails]]\naddress = "https://ada:secret@tail.example"\n[output]', "password"),
    "no toml": ("bundles", "bundles = = ", "not TOML"),
    "an unknown source": ("[output]", '[source]\nkind = "camra"\n[output]', "camra"),
    "no secret there": (
        'where = "out.jsonl"',
        'kind = "http"\nwhere = "https://a.example"\ntoken_file = "gone.token"',
        "gone.token",
    ),
}


@pytest.mark.parametrize("what", HELD)
def test_what_a_rollout_must_not_change_or_the_device_cannot_run_is_refused(
    what: str, following: ConfigBench, tmp_path: Path
) -> None:
    old, new, says = HELD[what]
    text = following.path.read_text().replace(old.format(stick=tmp_path / "stick"), new, 1)
    assert text != following.path.read_text()
    staged = tmp_path / "staged.toml"
    staged.write_text(text)
    said = check(following.path, following.config, 60, staged)
    assert said is not None and says in said and "secret@" not in said and "Traceback" not in said


def test_a_config_is_no_bundle_and_a_bundle_no_config(following: ConfigBench) -> None:
    from edgeloop_agent.updates.journal import Running
    from edgeloop_agent.updates.offers import Offer, SignedTargets
    from edgeloop_agent.updates.policy import Stay, decide

    for model, kind in (("config:kitchen", "bundle"), ("m", "config"), ("m", "firmware"), ("config:kitchen", "firmware")):
        signed = SignedTargets(1, 1, {"t": Offer("t", 10, "a" * 64, model, 2, kind)})
        said = decide("t", signed, Running(model, 1, "b" * 64), following.folder.load(), 100)
        assert isinstance(said, Stay) and said.refused, (model, kind)
    large = SignedTargets(1, 1, {"t": Offer("t", 300_000, "a" * 64, "config:kitchen", 2, "config")})
    said = decide("t", large, Running("config:kitchen", 1, "b" * 64), following.folder.load(), 1 << 30)
    assert isinstance(said, Stay) and "the limit here" in said.why


def test_a_device_that_follows_no_config_looks_at_none(bench: Bench) -> None:
    assert choose(bench.config, Path("agent.toml"), Log("error")) is None


@pytest.mark.long
@needs("strace")
def test_killed_or_without_power_at_any_call_a_whole_config_is_chosen(tmp_path: Path) -> None:
    for what, points, _, wrong in cuts(tmp_path, 1, 8, [config, config_shipped]):
        assert not wrong, (what, wrong[:3])
        assert points > 5
