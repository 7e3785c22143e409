"""Retraining: when, on what, and what passes the gate; the command with a real hub."""

from __future__ import annotations

import fcntl
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from commands import TINY, command
from edgeloop_contract.messages import Sample, Samples
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.retraining.gate import Answers, ChallengerLimits, compare, judge
from edgeloop_pipeline.retraining.policy import Policy, Signals, decide
from edgeloop_pipeline.retraining.pseudo_labelling import calibrated
from hubs import Hub, running_hub

NOW = Signals(100, 0, (), 1.0)


@pytest.mark.parametrize(
    ("retrains", "policy", "now"),
    [
        (False, Policy(), NOW),
        (True, Policy(), Signals(100, 50, (), 1.0)),
        (False, Policy(), Signals(100, 19, ("pi",), 1.0)),
        (True, Policy(), Signals(100, 20, ("pi",), 1.0)),
        (False, Policy(), Signals(100, 49, (), 400.0)),
        (True, Policy(max_age_days=30), Signals(100, 1, (), 31.0)),
        (False, Policy(max_age_days=30), Signals(100, 0, (), 31.0)),
        (False, Policy(wait_hours=5), Signals(100, 30, ("pi",), 1.0, hours_since_refusal=4.0)),
        (True, Policy(wait_hours=5), Signals(100, 50, (), 1.0, hours_since_refusal=4.0)),
    ],
)
def test_when(retrains: bool, policy: Policy, now: Signals) -> None:
    assert decide(policy, now).retrain is retrains


def answers(rng: np.random.Generator, champion: float, challenger: float, recordings: int = 24, each: int = 8) -> Answers:
    """Right and wrong by recording: some are hard for both."""
    place = np.repeat(np.arange(recordings), each)
    hard = rng.normal(0, 0.15, recordings)[place]
    right = [
        rng.random(len(place)) < np.clip(p + hard + rng.normal(0, 0.1, recordings)[place], 0, 1) for p in (champion, challenger)
    ]
    return Answers(right[0], right[1], place)


@pytest.mark.long
def test_a_challenger_that_is_no_better_seldom_passes_and_one_that_is_does() -> None:
    rng, limits = np.random.default_rng(0), ChallengerLimits(max_test_drop=1.0)
    home = answers(rng, 0.9, 0.9)
    passed = {
        gain: sum(judge(home, answers(rng, 0.7, 0.7 + gain), limits).passed for _ in range(200)) / 200 for gain in (-0.1, 0.0, 0.2)
    }
    assert passed[-0.1] == 0 and passed[0.0] <= 0.09 and passed[0.2] >= 0.9


def test_worse_on_the_test_set_or_too_little_to_tell_is_refused() -> None:
    rng = np.random.default_rng(1)
    better = answers(rng, 0.5, 0.9)
    assert "worse on the test set" in judge(answers(rng, 0.95, 0.85), better, ChallengerLimits()).reasons[0]
    few = Answers(np.zeros(5, bool), np.ones(5, bool), np.arange(5))
    assert "only 5 held-out" in judge(answers(rng, 0.9, 0.95), few, ChallengerLimits()).reasons[0]
    nothing = np.zeros(0, bool)
    assert not judge(answers(rng, 0.9, 0.95), Answers(nothing, nothing, np.zeros(0)), ChallengerLimits()).passed
    same = compare("x", np.ones(10, bool), np.ones(10, bool), np.arange(10))
    assert same.p_better == same.p_worse == 1.0


@pytest.mark.parametrize(("recordings", "refused"), [(4, False), (16, True)])
def test_a_class_that_falls_is_refused_or_at_least_told(recordings: int, refused: bool) -> None:
    """Four recordings cannot show it by any test over recordings: then it is a caution."""
    rng = np.random.default_rng(2)
    usual = answers(rng, 0.7, 0.95)
    place = np.repeat(np.arange(recordings), 8) + 100
    fallen = np.arange(len(place)) % 8 < 5
    home = Answers(
        np.concatenate([usual.champion, np.ones(len(place), bool)]), np.concatenate([usual.challenger, fallen]),
        np.concatenate([usual.recordings, place]), {"class": np.array(["ok"] * len(usual.recordings) + ["fallen"] * len(place))},
    )  # fmt: skip
    verdict = judge(home, answers(rng, 0.5, 0.9), ChallengerLimits(max_test_drop=1.0))
    assert verdict.passed is not refused
    told = verdict.reasons if refused else verdict.cautions
    assert len(told) == 1 and "test set, class fallen" in told[0] and "100.0% → 62.5%" in told[0]


def field_of(recordings: list[str], device: str = "pi") -> field_data.Field:
    n = len(recordings)
    text = np.array(recordings)
    return field_data.Field(
        np.zeros((n, 4, 4, 1), np.uint8), np.array(["a"] * n), np.array([device] * n), text, np.array([f"k{i}" for i in range(n)]),
        np.arange(n, dtype=float), np.zeros(n, bool), np.full(n, "train"), np.ones(n, bool), np.zeros(n, bool), np.zeros(n, bool),
    )  # fmt: skip


def test_a_recording_stays_on_its_side(tmp_path: Path) -> None:
    first, sides = field_of([f"r{i // 3}" for i in range(30)]).divided({})
    for name in np.unique(first.groups):
        assert len(set(first.parts[first.groups == name])) == 1
    assert {"train", "validation", "test"} == set(first.parts.tolist())
    more, later = field_of([f"r{i // 3}" for i in range(60)]).divided(sides)
    assert later.items() >= sides.items() and (more.parts[:30] == first.parts).all()
    path = more.save(tmp_path)
    assert more.save(tmp_path) == path and (field_data.load(path).parts == more.parts[np.lexsort((more.keys, more.devices))]).all()
    lines = field_of(["x line 1", "x line 2", "x line 150"])
    assert lines.groups[0] == lines.groups[1] != lines.groups[2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def retrain(hub: Hub, runs: Path, *more: object) -> Any:
    return command(
        "edgeloop", "retrain", TINY, "--runs", runs, "--keys", hub.folder / "keys", "--json", *more,
        EDGELOOP_HUB=hub.address, EDGELOOP_HUB_TOKEN=hub.token,
    )  # fmt: skip


def test_nothing_to_do_and_a_lock_have_their_exit_codes(hub: Hub, runs: Path) -> None:
    done = retrain(hub, runs)
    assert done.returncode == 10, done.stderr
    assert json.loads(done.stdout)["what"] == "nothing"
    assert json.loads((runs / "retrain" / "tiny" / "decisions.jsonl").read_text())["champion"]
    with (runs / "retrain" / "tiny" / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert retrain(hub, runs).returncode == 11
    assert retrain(hub, runs, "--keys", runs / "none").returncode == 2


def bring(hub: Hub, device: str, made: list[Sample], times: int = 1) -> None:
    """Enrol a device and send its samples, as its outbox does; somebody says what each of them is that has a truth."""
    import urllib.request

    said = [{"device": device, "key": s.key, "label": s.truth} for s in made if s.truth]
    made = [msgspec.structs.replace(s, truth="") for s in made]

    told = hub.post("/api/v1/enrol", {"token": hub.run("token", "enrol", device), "device": device})
    for _ in range(times):
        asked = urllib.request.Request(
            f"{hub.address}/api/v1/outbox", msgspec.msgpack.encode(Samples(samples=made)), method="POST",
            headers={"Authorization": f"Bearer {told['credential']}", "Content-Type": "application/msgpack"},
        )  # fmt: skip
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.status == 200
    for i in range(0, len(said), 1000):
        hub.post("/api/v1/labels", {"labels": said[i : i + 1000], "who": "ada"})


def sample(values: Any, number: int, recording: str, truth: str = "") -> Sample:
    return Sample(
        key=f"sample-{number:06}", at=1.0 + number, kind="labelled" if truth else "uncertain", model="tiny", sha256="0" * 64,
        recording=recording, truth=truth, dtype=str(values.dtype), shape=list(values.shape), data=zlib.compress(values.tobytes()),  # type: ignore[arg-type]
    )  # fmt: skip


def unseen() -> tuple[Any, tuple[str, ...]]:
    splits = Project(recipes.load(recipes.find(str(TINY)))).splits
    return splits.test, splits.labels


FLOORS_OFF = ("--set", "target.min_accuracy=0", "--set", "target.max_drop=1", "--set", "export.runtimes=[onnx]")


@pytest.mark.long  # it trains a whole model
def test_shuffled_labels_are_refused(hub: Hub, runs: Path) -> None:
    """Samples of the recipe's own test set with wrong labels, as if from a device; floors off, so that the gate decides."""
    (test, names), rng = unseen(), np.random.default_rng(0)
    count = min(len(test), 120)
    made = [sample(np.asarray(test.values[i]), i, f"r{i // 4}", str(rng.choice(names))) for i in range(count)]
    bring(hub, "pi-1", made, times=2)  # sent twice, stored once
    assert len(hub.get("/api/v1/samples?model=tiny")) == len(made)
    done = retrain(hub, runs, *FLOORS_OFF)
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["what"] == "refused", (done.stderr, said)
    assert said["verdict"]["field"]["samples"] > 20 and not said["target"] and not said["pseudo_labels"]
    assert retrain(hub, runs, *FLOORS_OFF).returncode == 10


@pytest.mark.long
def test_pseudo_labels_train_and_never_judge(runs: Path, tmp_path: Path) -> None:
    """Half of each recording has labels. What trains by a guess is of recordings that do not judge, sure, and counted apart.

    The folder's name has what YAML and shells read in a way of their own.
    """
    runs = runs.rename(runs.with_name("o'neil's runs: {1}, #2"))
    test, names = unseen()
    count = min(len(test), 240)
    made = [sample(np.asarray(test.values[i]), i, f"r{i // 8}", "" if i % 2 else str(names[test.labels[i]])) for i in range(count)]
    with running_hub(tmp_path / "hub") as hub:
        bring(hub, "pi-1", made)
        done = retrain(hub, runs, *FLOORS_OFF, "--no-publish", "--pseudo-labels", "0.6")
        said = json.loads(done.stdout)
        assert done.returncode in (0, 1), done.stderr
        unlabelled = {row["key"] for row in hub.get("/api/v1/samples?model=tiny&which=open")}
    found = field_data.load(runs / "retrain" / "tiny" / "data" / said["data"])
    assert set(found.keys[found.pseudo]) <= unlabelled and found.pseudo.sum() == said["pseudo_labels"] > 0
    assert set(found.parts[found.pseudo]) == {"train"}
    assert not set(found.groups[found.pseudo]) & set(found.groups[found.parts != "train"])
    assert said["verdict"]["field"]["samples"] == ((found.parts == "test") & ~found.pseudo).sum() == (found.parts == "test").sum()
    truth = {one.key: names[test.labels[i]] for i, one in enumerate(made)}
    right = np.mean([truth[k] == label for k, label in zip(found.keys[found.pseudo], found.labels[found.pseudo], strict=True)])
    assert right > 0.6 and 0 <= said["pseudo_right"] <= 1


def test_confidence_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (4000, 5))
    odds = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    labels = (rng.random((4000, 1)) > odds.cumsum(1)).sum(1).clip(0, 4)
    assert 0.85 < calibrated(scores, labels) < 1.2
    assert 3.4 < calibrated(4 * scores, labels) < 4.8
