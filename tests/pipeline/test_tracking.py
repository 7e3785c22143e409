"""Training curves in TensorBoard and MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import TINY, command
from edgeloop_pipeline.training.tracking import spark

ONLY_TRAIN = [f"--set={s}=off" for s in ("prune", "distill", "quantize", "export", "verify", "profile", "package", "report")]


@pytest.mark.long
def test_both_trackers_hold_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "mlruns").as_uri()
    done = command("edgeloop", "run", TINY, "--runs", tmp_path / "runs", "--json", *ONLY_TRAIN, f"--set=train.mlflow={store}",
                   f"--set=train.tensorboard={tmp_path / 'board'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    curve = json.loads(done.stdout)["stages"][0]["metrics"]["curve"]

    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board" / "tiny" / "train"))
    events.Reload()
    assert [round(e.value, 4) for e in events.Scalars("loss")] == [round(e["loss"], 4) for e in curve]
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["epochs"] == "3"
    history = client.get_metric_history(run.info.run_id, "validation_accuracy")
    assert [m.value for m in history] == [e["validation_accuracy"] for e in curve]


def test_a_tracker_that_fails_does_not_stop_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = command("edgeloop", "run", TINY, "--runs", tmp_path / "runs", "--json", *ONLY_TRAIN,
                   f"--set=train.tensorboard={tmp_path / 'file'}")  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr
    (note,) = json.loads(done.stdout)["stages"][0]["metrics"]["training"]["notes"]
    assert "left out because it failed" in note


def test_turning_a_tracker_on_reruns_nothing(tmp_path: Path, runs: Path) -> None:
    said = command(
        "edgeloop", "status", TINY, "--runs", runs, f"--set=train.tensorboard={tmp_path}", "--set=train.workers=1"
    ).stdout
    assert "would run" not in said


def test_spark() -> None:
    assert spark([0.0, 0.5, 1.0]) == "▁▅█" and spark([3.0]) == "▁"
