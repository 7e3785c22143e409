"""A device with several bundles follows each by its name; what is wrong with one changes nothing of the others."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.updates.slots import running_now, with_slots
from edgeloop_agent.updates.switcher import UpdateWatcher
from edgeloop_contract.errors import NetworkError, UsageError
from hubs import version
from power_cuts import beside, cuts, two_bundles
from programs import needs
from serving import GOLDEN
from update_bench import Bench


@pytest.fixture
def two(tmp_path: Path) -> Bench:
    return two_bundles(tmp_path)


def versions(bench: Bench) -> dict[str, int]:
    return {running.model: running.version for running in bench.everything()}


def watcher(bench: Bench, stream: io.StringIO) -> UpdateWatcher:
    log = Log("info", stream)
    return UpdateWatcher(bench.config, Path("agent.toml"), Models(with_slots(bench.config, log), Counts(), log), Counts(), log)


def test_each_bundle_is_taken_by_its_name_and_one_at_a_time_is_on_trial(two: Bench) -> None:
    two.offer(2)
    two.repository.add(version(two.bundles, 5), 5)
    two.repository.publish()
    assert "exercise_watch-5.edgeloop is staged; a bundle is on trial" in two.turn()
    assert two.turn() == "a bundle is on trial" and versions(two) == {"exercise_watch": 5, "second": 1}
    two.folder.change(lambda j: j.committed())
    assert "second: second-2.edgeloop is staged" in two.turn()
    two.taken()
    assert versions(two) == {"exercise_watch": 5, "second": 2}
    assert [(r.model, r.version) for r in running_now(two.config)] == [("exercise_watch", 5), ("second", 2)]


def test_a_bundle_that_fails_or_cannot_be_had_keeps_no_other_from_its_update(two: Bench) -> None:
    two.repository.add(version(two.bundles, 5), 5)
    two.offer(2)
    two.repository.publish()
    next((two.repository.folder / "targets").glob("*exercise_watch-5*")).unlink()
    with pytest.raises(NetworkError, match="exercise_watch-5"):
        two.turn()
    assert versions(two) == {"exercise_watch": 1, "second": 2} and two.journal.load().trial is not None


def test_a_bad_bundle_rolls_back_alone(two: Bench) -> None:
    """Its runtime fails on trial: the second bundle's version 2 goes, the first one's stays."""
    stream = io.StringIO()
    two.repository.add(version(two.bundles, 5), 5)
    two.repository.publish()
    two.turn()
    two.folder.change(lambda j: j.committed())
    watch = watcher(two, stream)
    two.offer(2)
    two.repository.publish()
    two.turn()
    assert not watch.tick()  # the first one is not switched
    assert watch.models.manifests["second"].version == 2 and "update on trial target=second-2" in stream.getvalue()
    watch.counts.calls_of("second").failed += 30
    watch.tick()
    assert "update rolled back target=second-2.edgeloop why=30 of 30 answers were refusals" in stream.getvalue().replace('"', "")
    assert {name: m.version for name, m in watch.models.manifests.items()} == {"exercise_watch": 5, "second": 1}
    assert versions(two) == {"exercise_watch": 5, "second": 1}
    assert [e.kind for e in two.journal.load().events] == ["installed", "rolled-back"]
    assert two.turn() == "it is running already; second: no target is assigned"


def test_a_bundle_that_its_chain_cannot_use_is_given_back(two: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    watch = watcher(two, stream)
    two.offer(2)
    two.repository.publish()
    two.turn()

    def refuse(*_: object) -> None:
        raise UsageError("chain[0].labels: second has no label 'plate'")

    monkeypatch.setattr(type(watch.trials[1]), "_fits", refuse)
    watch.tick()
    assert "no label 'plate'" in stream.getvalue() and versions(two)["second"] == 1


def test_a_slot_of_another_model_never_takes_a_bundles_place(tmp_path: Path) -> None:
    """The config names another first bundle since: the slot of the earlier one is left alone."""
    bench = Bench(tmp_path)
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.taken()
    other = version(tmp_path, 7, name="second")
    text = (tmp_path / "agent.toml").read_text().replace(json.dumps(str(GOLDEN)), json.dumps(str(other)))
    (tmp_path / "agent.toml").write_text(text)
    from edgeloop_agent.config import load

    bench.config = load(tmp_path / "agent.toml")
    assert versions(bench) == {"second": 7}


@pytest.mark.long
@needs("strace")
def test_killed_or_without_power_at_any_call_the_second_bundle_is_whole_and_the_first_untouched(tmp_path: Path) -> None:
    for what, points, _, wrong in cuts(tmp_path, 1, 8, [beside]):
        assert not wrong, (what, wrong[:3])
        assert points > 5
