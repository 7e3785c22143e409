"""`edgeloop sweep`: trade-offs found, work resumed after a kill, the same study on two Ray workers, one point built."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from commands import BIN, command, edgeloop_here, sentence
from edgeloop_pipeline.recipe.settings import Knob
from edgeloop_pipeline.sweep.study import grid_of
from edgeloop_pipeline.sweep.trial import Pruned, TrialPruner

SWEEP = """
sweep:
  trials: 2
  vary:
    prune.keep: {low: 0.25, high: 1.0}
    quantize.calibration: {choices: [minmax, mse]}
    distill.student_args: {choices: [{}]}
"""
QUICK = ("--set", "profile.seconds=0.02", "--set", "distill.epochs=6", "--set", "export.runtimes=[onnx]")


@pytest.fixture
def project(tiny: Path) -> Path:
    text = (tiny / "recipe.yaml").read_text()
    (tiny / "recipe.yaml").write_text(text + SWEEP)
    return tiny


def swept(project: Path, runs: Path, *words: str) -> dict:
    done = command("edgeloop", "sweep", project, "--runs", runs, "--json", *QUICK, *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.long
def test_a_killed_sweep_goes_on_and_its_best_is_built(project: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = [str(BIN / "edgeloop"), "sweep", str(project), "--runs", str(runs), *QUICK]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(words, stderr=said, stdout=said)
    deadline = time.monotonic() + 120
    while "trial 1:" not in (tmp_path / "said").read_text() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its child dies with it
    found = swept(project, runs)
    finished = [t for t in found["trials"] if t["state"] in ("complete", "pruned")]
    assert len(finished) == 2
    best = [t for t in finished if t["best"]]
    assert best and all(t["point"]["accuracy"] > 0.4 for t in best)
    page = Path(found["sweep"]).read_text()
    assert "<svg" in page and f"<td>{best[0]['number']}</td>" in page
    assert [t["number"] for t in swept(project, runs)["trials"]] == [t["number"] for t in found["trials"]]  # nothing is left to do
    built = command(
        "edgeloop",
        "run",
        project,
        "--runs",
        runs,
        "--json",
        *QUICK,
        "--set",
        "target={max_drop: 0.1}",
        "--from-sweep",
        best[0]["number"],
    )
    assert built.returncode == 0, built.stderr
    stages = {s["name"]: s for s in json.loads(built.stdout)["stages"]}
    assert stages["quantize"]["metrics"]["validation_accuracy"] == best[0]["point"]["accuracy"]
    assert "no finished trial of that number" in sentence(
        command("edgeloop", "run", project, "--runs", runs, *QUICK, "--from-sweep", 99), 2
    )


@pytest.mark.long
def test_two_ray_workers_share_one_study(project: Path, tmp_path: Path) -> None:
    found = swept(project, tmp_path / "runs", "--on", "ray", "--workers", "2")
    assert len([t for t in found["trials"] if t["state"] in ("complete", "pruned")]) == 2
    workers = [p for p in (tmp_path / "runs" / "sweeps").iterdir() if p.is_dir()]
    assert len(workers) == 2 and all(any((w / "cache").glob("prune-*")) for w in workers)
    assert all(len(list((w / "cache").glob("train-*"))) == 1 for w in workers)


BAD = {
    "no sweep": ("", "has no sweep"),
    "unknown setting": ("sweep: {vary: {prune.kep: {low: 0.2, high: 0.5}}}", "did you mean keep"),
    "a value that cannot be": ("sweep: {vary: {prune.keep: {low: 0.2, high: 1.5}}}", "prune.keep"),
    "neither range nor choices": ("sweep: {vary: {prune.keep: {low: 0.2}}}", "give choices, or low and high"),
    "upside down": ("sweep: {vary: {prune.keep: {low: 0.5, high: 0.2}}}", "low must be below high"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_sweep_that_cannot_be(name: str, tiny: Path, tmp_path: Path) -> None:
    text, said = BAD[name]
    with (tiny / "recipe.yaml").open("a") as file:
        file.write(text)
    assert said in sentence(edgeloop_here("sweep", tiny, "--runs", tmp_path / "runs"), 2)


def test_a_trial_that_a_smaller_network_beats_is_ended() -> None:
    board = TrialPruner(0.05, [(1000, [0.5, 0.6, 0.7, 0.8])])
    for epoch, accuracy in ((1, 0.1), (2, 0.1), (3, 0.66)):
        board.watch("tiny/distill", epoch, accuracy, 2000)
    with pytest.raises(Pruned, match=r"1,000 parameters had 80\.00%"):
        board.watch("tiny/distill", 4, 0.7, 2000)
    board.watch("tiny/distill", 4, 0.1, 500)  # smaller than any: it may be worth it
    board.watch("tiny/train", 4, 0.1, 2000)


@pytest.mark.long
def test_a_small_space_of_choices_is_gone_through_once(project: Path, tmp_path: Path) -> None:
    text = (project / "recipe.yaml").read_text()
    text = text.replace("    prune.keep: {low: 0.25, high: 1.0}\n", "").replace("trials: 2", "trials: 9")
    (project / "recipe.yaml").write_text(text)
    trials = swept(project, tmp_path / "runs")["trials"]
    assert sorted(t["changes"][0] for t in trials) == ['quantize.calibration="minmax"', 'quantize.calibration="mse"']
    best = next(t for t in trials if t["best"])
    built = edgeloop_here("run", project, "--runs", tmp_path / "runs", "--json", *QUICK, "--from-sweep", best["number"])
    stages = {s["name"]: s for s in json.loads(built.stdout)["stages"]}
    assert stages["quantize"]["metrics"]["validation_accuracy"] == best["point"]["accuracy"]
    assert grid_of({"a": Knob(choices=[1, 2]), "b": Knob(low=0, high=1)}) == []
    assert grid_of({"a": Knob(choices=list(range(9))), "b": Knob(choices=list(range(9)))}) == []
