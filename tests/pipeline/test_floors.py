"""Which floors a run misses: counted from the best float network of the run, and never silently near chance."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from commands import ONNX, TINY, command, edgeloop_here, sentence
from edgeloop_pipeline.recipe.settings import Target
from edgeloop_pipeline.stages.floors import File, FloatNetwork, Pair, allowed_lsb, best, failures

TRAINED, RUINED = FloatNetwork("train", 0.97, 0.968), FloatNetwork("prune", 0.36, 0.355)
GOOD, BAD = File("onnx-int8", True, 0.96, 1000), File("onnx-int8", True, 0.35, 1000)
AGREE = Pair("torch", "onnx-int8", 1, 1.0)


def missed(
    target: Target, networks: list[FloatNetwork], file: File, pair: Pair = AGREE, chance: float = 0.25, points: int = 10
) -> str:
    return " | ".join(failures(target, "accuracy", networks, [file], [pair], chance, points))


@pytest.mark.parametrize(
    ("target", "networks", "file", "wanted"),
    [
        (Target(max_drop=0.02), [TRAINED], GOOD, ""),
        (Target(max_drop=0.02), [TRAINED, RUINED], BAD, "against the best float network (after train, 96.80%)"),
        (Target(max_drop=0.02), [TRAINED, RUINED], BAD, "near chance"),
        (Target(), [TRAINED, RUINED], BAD, "96.80% after train, 35.50% after prune"),
        (Target(min_accuracy=0.3), [TRAINED, RUINED], BAD, ""),
        (Target(max_int8_drop=0.02), [TRAINED, RUINED], File("onnx-int8", True, 0.6, 1), ""),
        (Target(max_int8_drop=0.02), [TRAINED], File("onnx-int8", True, 0.9, 1), "max_int8_drop"),
        (Target(max_int8_drop=0.02), [TRAINED], File("onnx-float32", False, 0.9, 1), ""),
        (Target(max_drop=0.02), [TRAINED], File("onnx-float32", False, 0.9, 1), "max_drop"),
        (Target(min_accuracy=0.5), [TRAINED], File("x", False, math.nan, 1), "below min_accuracy"),
        (Target(), [TRAINED], File("x", False, math.nan, 1), "near chance"),
        (Target(max_int8_bytes=10), [TRAINED], GOOD, "max_int8_bytes"),
        (Target(max_int8_bytes=10), [TRAINED], File("onnx-float32", False, 0.96, 1000), ""),
    ],
)
def test_floors(target: Target, networks: list[FloatNetwork], file: File, wanted: str) -> None:
    found = missed(target, networks, file)
    assert wanted in found and bool(wanted) == bool(found), found


def test_the_best_is_chosen_by_validation_and_not_by_the_test_set() -> None:
    lucky, chosen = FloatNetwork("train", 0.90, 0.99), FloatNetwork("distill", 0.95, 0.94)
    assert best([lucky, chosen]) is chosen
    assert best([FloatNetwork("train", math.nan, 0.9), chosen]) is chosen
    assert best([FloatNetwork("train", math.nan, 0.9)]).stage == "train"


def test_steps_that_are_allowed_follow_the_depth_until_they_are_set() -> None:
    assert [allowed_lsb(Target(), n) for n in (0, 10, 24, 40, 200)] == [3, 3, 5, 7, 8]
    assert allowed_lsb(Target(max_lsb=1), 200) == 1
    five = Pair("torch", "tflite-int8", 5, 0.99, "; the first layer to differ is up")
    assert "target.max_lsb sets it; the first layer" not in missed(Target(), [TRAINED], GOOD, five, points=30)
    told = missed(Target(), [TRAINED], GOOD, five, points=8)
    assert "max_lsb 3" in told and "target.max_lsb sets it" in told and "the first layer to differ is up" in told
    assert "min_agreement" in missed(Target(), [TRAINED], GOOD, Pair("a", "b", 0, 0.5))


@pytest.mark.long
def test_a_pruned_ruin_is_not_packaged(runs: Path) -> None:
    """Pruned to almost nothing with no training behind it: the floor counts from the network before, so nothing is shipped."""
    before = set(runs.rglob("*.edgeloop"))
    done = edgeloop_here(
        "run", TINY, "--runs", runs, ONNX, "--set", "prune={keep: 0.13, round_to: 1}", "--set", "distill=off",
        "--set", "target={max_drop: 0.1}",
    )  # fmt: skip
    said = sentence(done, 1)
    assert "against the best float network (after train" in said and "max_drop" in said
    assert before and set(runs.rglob("*.edgeloop")) == before


def test_the_object_is_printed_whatever_ended_the_run(tiny: Path, runs: Path) -> None:
    """A network with one label too few, behind a stage that is cached."""
    (tiny / "network.py").write_text(
        (tiny / "network.py").read_text().replace("nn.Linear(16, outputs)", "nn.Linear(16, outputs + 1)")
    )
    done = edgeloop_here("run", tiny, "--runs", runs, ONNX, "--json")
    told = json.loads(done.stdout)
    assert told["error"] in sentence(done, 4) and told["stages"] == [] and told["failures"] == []


@pytest.mark.long
def test_a_network_that_ends_in_a_softmax_is_noticed_and_answers_right(tiny: Path, tmp_path: Path) -> None:
    """Its probabilities on a device are those of the network, and not a softmax of a softmax."""
    source = (tiny / "network.py").read_text().replace("flatten(1))", "flatten(1)).softmax(1)")
    (tiny / "network.py").write_text(source)
    short = ("--set", "train.epochs=8", "--set", "prune=off", "--set", "distill=off", "--set", "quantize.qat=never")
    done = edgeloop_here("run", tiny, "--runs", tmp_path / "runs", ONNX, "--json", *short)
    assert done.returncode == 0, done.stderr
    assert "ends in a softmax" in done.stderr
    told = json.loads(done.stdout)
    samples = tmp_path / "samples"
    assert command("edgeloop", "samples", tiny, samples, "--limit", "12").returncode == 0
    answers = command("edgeloop-agent", "run", told["bundle"], "--source", samples)
    sure = [max(json.loads(line)["probabilities"].values()) for line in answers.stdout.splitlines()]
    assert len(sure) >= 12 and max(sure) > 0.9, "a softmax of a softmax of three classes is at most 0.58"
