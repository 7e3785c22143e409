"""Training with two processes, started by the launchers that people use."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commands import BIN, TIMEOUT_SECONDS, command

# No batch normalization: its statistics are those of each process's part.
NETWORK = """
from torch import nn

def tiny(sample_shape, outputs):
    return nn.Sequential(
        nn.Unflatten(2, (32, 1)), nn.Conv2d(sample_shape[0], 16, (5, 1), (2, 1)), nn.ReLU(), nn.Conv2d(16, 16, (5, 1), (2, 1)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, outputs),
    )
"""
ONLY_TRAIN = [f"--set={s}=off" for s in ("prune", "distill", "quantize", "export", "verify", "profile", "package", "report")]
SETTINGS = ["--set=train.epochs=4", "--set=train.learning_rate=0.02"]


def curve(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr[-3000:]
    stage = json.loads(done.stdout)["stages"][0]
    return stage["metrics"]["curve"]


@pytest.fixture
def plain(tiny: Path) -> Path:
    (tiny / "network.py").write_text(NETWORK)
    return tiny


def launched(launcher: list[str], recipe: Path, runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    full = [*launcher, "-m", "edgeloop_pipeline", "run", str(recipe), "--runs", str(runs), "--json", *ONLY_TRAIN, *SETTINGS, *words]
    return subprocess.run(full, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)


SHARDED = pytest.param(["--set=train.shard=true", "--set=train.accumulate=2"], id="sharded", marks=pytest.mark.long)


@pytest.mark.parametrize("more", [pytest.param([], id="whole"), SHARDED])
def test_two_processes_have_the_loss_curve_of_one(plain: Path, tmp_path: Path, more: list[str]) -> None:
    one = curve(command("edgeloop", "run", plain, "--runs", tmp_path / "one", "--json", *ONLY_TRAIN, *SETTINGS))
    two = command("edgeloop", "run", plain, "--runs", tmp_path / "two", "--json", "--processes", 2, *ONLY_TRAIN, *SETTINGS, *more)
    for a, b in zip(one, curve(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-3)
    assert one[-1]["loss"] < 0.8 * one[0]["loss"]
    facts = json.loads(two.stdout)["stages"][0]["metrics"]["training"]
    assert facts["processes"].startswith("2 processes") and ("sharded" in facts["processes"]) == bool(more)


@pytest.mark.long
@pytest.mark.parametrize("more", [[], ["--set=train.shard=true"]], ids=["whole", "sharded"])
def test_accelerate_launch_resumes_after_a_kill(plain: Path, tmp_path: Path, more: list[str]) -> None:
    launcher = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
                "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    # --multi_gpu is its word for one process a device; with --cpu it starts a single one.
    whole = launched(launcher, plain, tmp_path / "whole", *more)
    assert "2 processes" in whole.stdout
    process = subprocess.Popen(
        [*launcher, "-m", "edgeloop_pipeline", "run", str(plain), "--runs", str(tmp_path / "cut"), *ONLY_TRAIN, *SETTINGS, *more],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 2/4" in line:
            break
    os.killpg(process.pid, 9)
    process.wait()
    process.stderr.close()
    assert curve(launched(launcher, plain, tmp_path / "cut", *more)) == curve(whole)


@pytest.mark.long
def test_later_stages_run_once(plain: Path, tmp_path: Path) -> None:
    """Distillation trains together too; what does not train is done by the first process alone."""
    done = command(
        "edgeloop", "run", plain, "--runs", tmp_path / "runs", "--json", "--processes", 2, "--set=prune=off", "--set=export=off",
        "--set=verify=off", "--set=profile=off", "--set=package=off", "--set=report=off",
        "--set=quantize.qat=always", "--set=quantize.qat_epochs=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert [s["name"] for s in json.loads(done.stdout)["stages"]] == ["train", "distill", "quantize"]


def test_a_failure_ends_every_process(plain: Path, tmp_path: Path) -> None:
    done = command("edgeloop", "run", plain, "--runs", tmp_path / "runs", "--processes", 2, *ONLY_TRAIN, "--set=train.learning_rate=1e9", "--set=train.weight_decay=0",
                   "--set=train.schedule=constant", "--set=train.optimizer=sgd")  # fmt: skip
    assert done.returncode != 0 and "lower learning_rate" in done.stderr


@pytest.mark.long
def test_two_pipeline_stages_have_the_loss_curve_of_one_process(plain: Path, tmp_path: Path) -> None:
    settings = [*ONLY_TRAIN, *SETTINGS, "--set=train.batch=30", "--set=train.accumulate=2"]  # 270 samples: whole batches only
    one = curve(command("edgeloop", "run", plain, "--runs", tmp_path / "one", "--json", *settings))
    two = command(
        "edgeloop", "run", plain, "--runs", tmp_path / "two", "--json", "--processes", 2, *settings, '--set=train.split_at=["3"]'
    )
    for a, b in zip(one, curve(two), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-3)
    assert "cut at 3" in json.loads(two.stdout)["stages"][0]["metrics"]["training"]["processes"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("split", "said"), [('["9"]', "no module '9'; it has 0, 1"), ('["3", "5"]', "makes 3 stages, but 2 processes train")]
)
def test_a_wrong_cut_is_one_sentence(plain: Path, tmp_path: Path, split: str, said: str) -> None:
    done = command(
        "edgeloop", "run", plain, "--runs", tmp_path / "runs", "--processes", 2, *ONLY_TRAIN, f"--set=train.split_at={split}"
    )
    assert done.returncode != 0 and said in done.stderr
