"""Regression and anomaly detection, from recipe to the agent's answers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from commands import HERE, command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_pipeline.tasks import confidence_intervals
from edgeloop_pipeline.tasks.classification import Classification


def built(project: str, runs: Path, *changes: str) -> tuple[dict, Path]:
    sets = [word for change in changes for word in ("--set", change)]
    done = edgeloop_here("run", HERE / "projects" / project, "--runs", runs, "--json", *sets)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found, Path(found["bundle"])


def answered(bundle: Path, project: str, folder: Path) -> list[dict]:
    made = command("edgeloop", "samples", HERE / "projects" / project, folder, "--limit", 30)
    assert made.returncode == 0, made.stderr
    done = command("edgeloop-agent", "run", bundle, "--source", folder, "--state", folder / "state")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.long
def test_regression_answers_in_the_quantities_units(tmp_path: Path) -> None:
    found, bundle = built("pitch", tmp_path / "runs")
    verified = next(s["metrics"] for s in found["stages"] if s["name"] == "verify")
    assert verified["metric"] == "R²" and {q["name"] for q in verified["quantities"]} == {"pitch_hz", "loudness"}
    assert all(v["accuracy"] > 0.6 for v in found["variants"])
    assert verified["parity"]["top1_share"] is None and verified["parity"]["max_lsb"] <= 3
    rows = answered(bundle, "pitch", tmp_path / "samples")
    truth = np.array([[float(x) for x in row["input"].split("/")[-1].removesuffix(".csv").split("_")[1:]] for row in rows])
    values = np.array([[row["values"]["pitch_hz"], row["values"]["loudness"]] for row in rows])
    off = {q["name"]: q["mae"] for q in verified["quantities"]}
    assert np.abs(values - truth).mean(0) == pytest.approx([off["pitch_hz"], off["loudness"]], rel=0.6)
    with Bundle.open(bundle) as opened:
        reference = opened.manifest.drift_reference
        assert len(reference.answer_mean) == 2 and not reference.label_share and reference.mean_confidence is None
    with zipfile.ZipFile(bundle) as archive:
        props = {p.key: p.value for p in onnx.load_from_string(archive.read("models/onnx-int8.onnx")).metadata_props}
    assert json.loads(props["labels"]) == ["pitch_hz", "loudness"] and "names" not in props
    assert len(json.loads(props["score_mean"])) == len(json.loads(props["score_std"])) == 2
    page = Path(found["report"]).read_text()
    assert "Per quantity" in page and "Confusion" not in page


@pytest.mark.long
def test_an_autoencoder_finds_what_is_not_normal(tmp_path: Path) -> None:
    found, bundle = built("odd", tmp_path / "runs", "network=network.py:convolutional", "profile.seconds=0.01")
    verified = next(s["metrics"] for s in found["stages"] if s["name"] == "verify")
    assert verified["metric"] == "ROC AUC" and all(v["accuracy"] > 0.8 for v in found["variants"])
    rows = answered(bundle, "odd", tmp_path / "samples")
    right = [row["label"] == row["input"].split("_")[-1].removesuffix(".png") for row in rows]
    d = verified["detection"]
    assert np.mean(right) > 0.7
    with Bundle.open(bundle) as opened:
        assert opened.manifest.task.threshold == d["threshold"]
    assert {row["label"] for row in rows} == {"normal", "spot"} and all(row["score"] > 0 for row in rows)
    assert "At the threshold" in Path(found["report"]).read_text()
    assert "anomaly: normal, spot" in command("edgeloop-agent", "inspect", bundle).stdout


SPOILED = {
    "anomalous recordings in train": ("odd", ("self._split(rng, 200, 0)", "self._split(rng, 200, 1)"), 3, "move them to test"),
    "nothing anomalous to test on": ("odd", ("self._split(rng, 100, 50)", "self._split(rng, 100, 0)"), 3, "needs normal and anom"),
    "three labels": ("odd", ('("normal", "spot")', '("a", "b", "c")'), 3, "two labels"),
    "a quantity without a number": ("pitch", ("np.stack([pitch, loudness], 1)", "pitch"), 3, "for each of pitch_hz, loudness"),
    "not a number": ("pitch", ("np.stack([pitch, loudness], 1)", "np.stack([pitch / 0, loudness], 1)"), 3, "finite numbers"),
    "a constant quantity": ("pitch", ("np.stack([pitch, loudness], 1)", "np.stack([pitch, 0 * pitch], 1)"), 3, "nothing to learn"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_data_that_do_not_suit_the_task(name: str, tmp_path: Path) -> None:
    import shutil

    project, (old, new), code, said = SPOILED[name]
    copy = Path(shutil.copytree(HERE / "projects" / project, tmp_path / project))
    text = (copy / "data.py").read_text()
    assert old in text
    (copy / "data.py").write_text(text.replace(old, new))
    assert said in sentence(edgeloop_here("run", copy, "--runs", tmp_path / "runs"), code)


@pytest.mark.parametrize(
    ("project", "change", "said"),
    [
        ("odd", "train.mixup=0.2", "mixup"),
        ("pitch", "train.label_smoothing=0.1", "label_smoothing"),
        ("pitch", "task=regresion", "did you mean regression"),
    ],
)
def test_settings_that_do_not_suit_the_task(project: str, change: str, said: str, tmp_path: Path) -> None:
    done = edgeloop_here("run", HERE / "projects" / project, "--runs", tmp_path / "runs", "--set", change)
    assert done.returncode and "Traceback" not in done.stderr and said in done.stderr


def test_auc_and_r2_are_the_ones_of_torchmetrics() -> None:
    from torchmetrics.functional import r2_score
    from torchmetrics.functional.classification import binary_auroc

    rng = np.random.default_rng(0)
    truth, scores = rng.random(400) < 0.3, rng.integers(0, 20, 400) / 20
    scores = np.where(truth, np.minimum(scores + 0.2, 1), scores)  # with ties
    once = np.ones(400)
    assert confidence_intervals.auc(scores, truth)(once) == pytest.approx(
        float(binary_auroc(torch.tensor(scores), torch.tensor(truth).int()))
    )
    values = rng.normal(size=(400, 2))
    near = values + rng.normal(size=(400, 2)) * [0.1, 2.0]
    assert confidence_intervals.r2(near, values)(once) == pytest.approx(float(r2_score(torch.tensor(near), torch.tensor(values))))
    twice = np.where(np.arange(400) < 200, 2.0, 0.0)
    assert confidence_intervals.auc(scores, truth)(twice) == pytest.approx(
        confidence_intervals.auc(scores[:200], truth[:200])(np.ones(200))
    )


def test_figures_by_class_are_the_ones_of_torchmetrics() -> None:
    from types import SimpleNamespace
    from typing import Any

    from torchmetrics.functional import classification as metrics

    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 5, 300), rng.normal(size=(300, 6)).astype(np.float32)  # class 5 is never true
    scores[:, 3] = -9  # and 3 is never said
    splits: Any = SimpleNamespace(labels=list("abcdef"), measure="")
    samples: Any = SimpleNamespace(labels=truth)
    found = Classification(splits).details(scores, samples, scores)
    said, true = torch.tensor(scores).argmax(1), torch.tensor(truth)
    assert found.confusion == metrics.multiclass_confusion_matrix(said, true, 6).tolist()
    for name in ("precision", "recall", "f1_score"):
        expected = getattr(metrics, f"multiclass_{name}")(said, true, 6, average="none").tolist()
        assert [getattr(c, name.removesuffix("_score")) for c in found.classes or []] == pytest.approx(expected)


def test_mixup_mixes_quantities() -> None:
    from edgeloop_exporters.normalization import InputNormalization
    from edgeloop_pipeline.data.types import Samples
    from edgeloop_pipeline.training.batches import Batches

    values = np.arange(64, dtype=np.float32).reshape(64, 1, 1)
    samples = Samples(values, values[:, 0].copy(), np.arange(64), np.arange(64))
    ((x, labels),) = Batches(samples, InputNormalization("float32", (0.0,), (1.0,)), 64, 1, 0, mixup=0.5)[0, 0]
    assert torch.allclose(x.reshape(64, 1), labels) and not torch.equal(labels, labels.round())
