"""Retraining of every task: `edgeloop retrain` with a real hub, and samples as a hub gives them."""

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
from edgeloop_contract.annotations import Annotation
from edgeloop_contract.sample_messages import StoredSample
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.fleet.hub_client import HubClient
from edgeloop_pipeline.retraining import gate
from field_samples import MAKERS, pages
from hubs import Hub, running_hub
from masked import project as masked_project

SHORT = """
  quantize: {calibration_samples: 64}
  export: {runtimes: [onnx]}
  verify: {layer_samples: 2, canary_samples: 4}
  profile: {seconds: 0.01}
  package: {}
"""
TRAIN = "batch: 16, learning_rate: 0.01, optimizer: adamw, precision: float32, workers: 0"


def project_of(task: str, folder: Path) -> Path:
    """A copy of a small project, with few stages and no floors."""
    if task == "segmentation":
        made = masked_project(folder, 30)
    else:
        name = {"detection": "shapes", "regression": "pitch", "anomaly": "odd"}[task]
        made = Path(shutil.copytree(HERE / "projects" / name, folder / name))
    text = (made / "recipe.yaml").read_text()
    head = [line for line in text.split("stages:")[0].splitlines() if not line.startswith(("target:", "name:"))]
    (made / "recipe.yaml").write_text(
        "\n".join([f"name: {task}", *head, "target: {min_accuracy: 0}", f"stages:\n  train: {{epochs: 20, {TRAIN}}}{SHORT}"])
    )
    return made


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def retrain(hub: Hub, project: Path, runs: Path, samples: list[StoredSample], *more: object) -> Any:
    with mock.patch.object(HubClient, "labelled", pages(samples)):
        return edgeloop_here(
            "retrain", project, "--runs", runs, "--keys", hub.folder / "keys", "--json", *more,
            EDGELOOP_HUB=hub.address, EDGELOOP_HUB_TOKEN=hub.token,
        )  # fmt: skip


METRICS = {"detection": "mAP", "regression": "R²", "anomaly": "ROC AUC", "segmentation": "mean IoU"}
LONG = [pytest.param(task, marks=() if task == "detection" else pytest.mark.long) for task in METRICS]


@pytest.mark.parametrize("task", LONG)
def test_a_better_model_of_every_task_is_published(task: str, hub: Hub, tmp_path: Path) -> None:
    """And the next cycle has nothing to do. One sample has labels of a name that nobody knows, or none of this task."""
    project, runs = project_of(task, tmp_path), tmp_path / "runs"
    samples = MAKERS[task](task, 120)
    odd = msgspec.structs.replace(samples[7], key="odd-000000", annotation=Annotation(labels=["a", "b"]), label=None)
    done = retrain(hub, project, runs, [*samples, odd], "--max-test-drop", "0.5")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and said["what"] == "published", (done.stderr, said)
    assert "1 labelled sample left out: it has no" in done.stderr
    verdict = said["verdict"]
    assert verdict["metric"] == METRICS[task] and f"{METRICS[task]} " in said["why"] and "accuracy" not in done.stdout
    assert verdict["field"]["challenger"] > verdict["field"]["champion"] and verdict["field"]["p_better"] < 0.05
    field = field_data.load(runs / "retrain" / task / "data" / said["data"])
    assert len(field) == said["labels"] == 120 and verdict["field"]["samples"] == (field.parts == "test").sum() > 20
    names = {one["name"] for one in verdict["slices"]}
    assert {"field, of device pi-0", "field, of device pi-1"} <= names
    assert task == "anomaly" or any(name.startswith(("field, label ", "field, quantity ")) for name in names)
    # The verdict on the recipe's test set is what `verify` measured of the shipped file.
    last = json.loads((runs / "history" / task / "2" / "run.json").read_text())
    accuracy = next(v["accuracy"] for v in last["variants"] if v["name"] == "onnx-int8")
    assert verdict["home"]["challenger"] == pytest.approx(accuracy, abs=1e-3)
    state = json.loads((runs / "retrain" / task / "state.json").read_text())
    assert state["champion"]["version"] == said["version"] == 2 and Path(state["champion"]["weights"]).is_file()
    assert retrain(hub, project, runs, samples).returncode == 10


@pytest.mark.long
def test_wrong_boxes_are_refused_and_a_killed_cycle_goes_on(hub: Hub, tmp_path: Path) -> None:
    """Each picture has the boxes of another one."""
    project, runs = project_of("detection", tmp_path), tmp_path / "runs"
    right = MAKERS["detection"]("detection", 120)
    wrong = [msgspec.structs.replace(s, annotation=right[i - 5].annotation) for i, s in enumerate(right)]
    with mock.patch.object(gate, "judge", side_effect=KeyboardInterrupt):
        assert retrain(hub, project, runs, wrong, "--no-publish").returncode not in (0, 10)
    begun = json.loads((runs / "retrain" / "detection" / "state.json").read_text())["last"]
    done = retrain(hub, project, runs, wrong, "--no-publish")
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["what"] == "refused" and "mAP" in said["why"], (done.stderr, said)
    assert (said["version"], said["data"]) == (begun["version"], begun["data"]) and "train: epoch" not in done.stderr
    assert retrain(hub, project, runs, wrong, "--no-publish").returncode == 10


REFUSED = {
    "pseudo-labels of boxes": (["--pseudo-labels", "0.9"], "pseudo-labels are of classification alone: leave --pseudo-labels off"),
    "nothing is labelled": (["--set", "task=tensors"], "is a tensors recipe; retraining needs labels, of classification,"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_retrained_is_said_in_a_sentence(case: str, tmp_path: Path) -> None:
    more, text = REFUSED[case]
    project = project_of("detection", tmp_path)
    done = edgeloop_here(
        "retrain",
        project,
        "--runs",
        tmp_path / "runs",
        "--no-publish",
        *more,
        EDGELOOP_HUB="http://127.0.0.1:1",
        EDGELOOP_HUB_TOKEN="t",
    )
    assert text in sentence(done, 2)
