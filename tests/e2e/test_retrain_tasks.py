"""Retraining of every task: `edgeloop retrain` with a real hub, samples from devices, and what a person says of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from commands import HERE, edgeloop_here, sentence
from edgeloop_agent.hub_client import HubClient
from edgeloop_contract.messages import Sample, Samples
from edgeloop_contract.sample_messages import LabelAssignment, LabelUpload, StoredSample
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.retraining import gate
from field_samples import MAKERS
from hubs import Hub, running_hub
from masked import project as masked_project
from pointed import project as pointed_project

SHORT = """
  quantize: {calibration_samples: 64}
  export: {runtimes: [onnx]}
  verify: {layer_samples: 2, canary_samples: 4}
  profile: {seconds: 0.01}
  package: {}
"""
TRAIN = "batch: 16, learning_rate: 0.01, optimizer: adamw, precision: float32, workers: 0"

BEAMS = """

class Beams(Shapes):
    def load(self):
        found = super().load()
        return Splits(("beam", "square"), found.train, found.validation, found.test)


def beams():
    return Beams()
"""


def project_of(task: str, folder: Path) -> Path:
    """A copy of a small project, with few stages and no floors."""
    if task == "segmentation":
        made = masked_project(folder, 30)
    elif task == "keypoints":
        made = pointed_project(folder, 80)
    else:
        name = {"detection": "shapes", "regression": "pitch", "anomaly": "odd", "multilabel": "chords"}[task]
        made = Path(shutil.copytree(HERE / "projects" / name, folder / name))
    if task == "detection":
        with (made / "data.py").open("a") as file:
            file.write(BEAMS)
    text = (made / "recipe.yaml").read_text()
    head = [line for line in text.split("stages:")[0].splitlines() if not line.startswith(("target:", "name:"))]
    (made / "recipe.yaml").write_text(
        "\n".join([f"name: {task}", *head, "target: {min_accuracy: 0}", f"stages:\n  train: {{epochs: 20, {TRAIN}}}{SHORT}"])
    )
    return made


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path / "hub") as found:
        yield found


def retrain(hub: Hub, project: Path, runs: Path, *more: object) -> Any:
    return edgeloop_here(
        "retrain", project, "--runs", runs, "--keys", hub.folder / "keys", "--json", *more,
        EDGELOOP_HUB=hub.address, EDGELOOP_HUB_TOKEN=hub.token,
    )  # fmt: skip


def bring(hub: Hub, samples: list[StoredSample]) -> None:
    """Samples from their devices' outboxes, and what a person says of them."""
    for name in sorted({sample.device for sample in samples}):
        device = f"{name}-{samples[0].model}"
        mine = [sample for sample in samples if sample.device == name]
        made = [
            Sample(
                key=s.key, at=s.taken + 1, kind="uncertain", model=s.model, sha256=s.sha256, recording=s.recording, dtype=s.dtype,
                shape=s.shape, data=s.data,
            )
            for s in mine
        ]  # fmt: skip
        told = hub.post("/api/v1/enrol", {"token": hub.run("token", "enrol", device), "device": device})
        HubClient(hub.address, told["credential"], "", 30).samples(msgspec.msgpack.encode(Samples(samples=made)))
        said = [LabelAssignment(device, s.key, s.label or "", annotation=s.annotation) for s in mine]
        hub.post("/api/v1/labels", LabelUpload(said, "ada"))


METRICS = {
    "detection": "mAP",
    "regression": "R²",
    "anomaly": "ROC AUC",
    "segmentation": "mean IoU",
    "multilabel": "mean AP",
    "keypoints": "OKS mAP",
}


def published(hub: Hub, project: Path, runs: Path, task: str) -> None:
    """The first champion of a project, as the hub's bundle: it knows what the model answers."""
    assert retrain(hub, project, runs).returncode == 10
    hub.publish(next((runs / "retrain" / task).glob("*.edgeloop")))


@pytest.mark.long
@pytest.mark.parametrize("task", METRICS)
def test_a_better_model_of_every_task_is_published(task: str, hub: Hub, tmp_path: Path) -> None:
    """And the next cycle has nothing to do."""
    project, runs = project_of(task, tmp_path), tmp_path / "runs"
    published(hub, project, runs, task)
    bring(hub, MAKERS[task](task, 120))
    done = retrain(hub, project, runs, "--max-test-drop", "0.5")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and said["what"] == "published", (done.stderr, said)
    assert "left out" not in done.stderr
    verdict = said["verdict"]
    assert verdict["metric"] == METRICS[task] and f"{METRICS[task]} " in said["why"] and "accuracy" not in done.stdout
    assert verdict["field"]["challenger"] > verdict["field"]["champion"] and verdict["field"]["p_better"] < 0.05
    field = field_data.load(runs / "retrain" / task / "data" / said["data"])
    assert len(field) == said["labels"] == 120 and verdict["field"]["samples"] == (field.parts == "test").sum() > 20
    names = {one["name"] for one in verdict["slices"]}
    assert {f"field, of device pi-0-{task}", f"field, of device pi-1-{task}"} <= names
    assert task in ("anomaly", "keypoints") or any(name.startswith(("field, label ", "field, quantity ")) for name in names)
    # The verdict on the recipe's test set is what `verify` measured of the shipped file.
    last = json.loads((runs / "history" / task / "2" / "run.json").read_text())
    accuracy = next(v["accuracy"] for v in last["variants"] if v["precision"] == "int8")
    assert verdict["home"]["challenger"] == pytest.approx(accuracy, abs=1e-3)
    if task == "detection":  # labels that are named otherwise are other labels
        done = retrain(hub, project, runs, "--force", "--set", "data=data.py:beams")
        assert "is a detection of beam, square, and the champion a detection of bar, square: remove " in sentence(done, 2)
    state = json.loads((runs / "retrain" / task / "state.json").read_text())
    assert state["champion"]["version"] == said["version"] == 2 and Path(state["champion"]["weights"]).is_file()
    assert retrain(hub, project, runs).returncode == 10


@pytest.mark.long
def test_wrong_boxes_are_refused_and_a_killed_cycle_goes_on(hub: Hub, tmp_path: Path) -> None:
    """Each picture has the boxes of another one."""
    project, runs = project_of("detection", tmp_path), tmp_path / "runs"
    right = MAKERS["detection"]("detection", 120)
    published(hub, project, runs, "detection")
    bring(hub, [msgspec.structs.replace(s, annotation=right[i - 5].annotation) for i, s in enumerate(right)])
    with mock.patch.object(gate, "judge", side_effect=KeyboardInterrupt):
        assert retrain(hub, project, runs, "--no-publish").returncode not in (0, 10)
    begun = json.loads((runs / "retrain" / "detection" / "state.json").read_text())["last"]
    done = retrain(hub, project, runs, "--no-publish")
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["what"] == "refused" and "mAP" in said["why"], (done.stderr, said)
    assert (said["version"], said["data"]) == (begun["version"], begun["data"]) and "train: epoch" not in done.stderr
    assert retrain(hub, project, runs, "--no-publish").returncode == 10


REFUSED = {
    "pseudo-labels of boxes": (["--pseudo-labels", "0.9"], "pseudo-labels are of classification alone: leave --pseudo-labels off"),
    "nothing is labelled": (["--set", "task=tensors"], "is a tensors recipe; retraining is of classification, multilabel,"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_retrained_is_said_in_a_sentence(case: str, tmp_path: Path) -> None:
    more, text = REFUSED[case]
    project = project_of("detection", tmp_path)
    words = ("retrain", project, "--runs", tmp_path / "runs", "--no-publish", *more)
    done = edgeloop_here(*words, EDGELOOP_HUB="http://127.0.0.1:1", EDGELOOP_HUB_TOKEN="t")
    assert text in sentence(done, 2)
