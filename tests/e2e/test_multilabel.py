"""Several labels a sample through the front door: a folder with a list to a bundle, and the agent's answers."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from msgspec.structs import replace

import edgeloop
from commands import HERE, command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.canary_consistency import canary_problems
from edgeloop_contract.consistency import problems
from edgeloop_contract.errors import GateError
from labelled import NAMES, labelled_pictures, one_column
from model_parts import node, onnx_file, value
from serving import serving

TRAIN = "stages.train={epochs: 25, batch: 8, optimizer: adamw, learning_rate: 0.01, schedule: cosine, precision: float32, workers: 0, channels_last: true}"
SETS = (
    TRAIN, "network_args={widths: [8, 16, 16], blocks: 1}", "preprocessing=[{step: colour}, {step: resize, height: 24, width: 32}]", "stages.verify={canary_samples: 8, layer_samples: 2}",
    "stages.profile={seconds: 0.01}", "stages.export={float32: false}", "augment=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, dict[str, list[str]], Path]:
    """The run's summary, the bundle, and new pictures: their labels by name, and their folder."""
    root = tmp_path_factory.mktemp("labels")
    one_column(root / "data", labelled_pictures(root / "data", 120))
    made = edgeloop_here("new", root / "mine", "--data", root / "data")
    assert made.returncode == 0 and "pictures with any number of labels each: labels.csv, column 'labels'" in made.stdout, made
    done = edgeloop_here("run", root / "mine", "--runs", root / "runs", "--json", *(word for s in SETS for word in ("--set", s)))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found, Path(found["bundle"]), labelled_pictures(root / "new", 16, seed=9), root / "new" / "images"


def right(answers: dict[str, list[str]], truth: dict[str, list[str]]) -> float:
    """The share of labels of pictures that are answered as they are."""
    return float(np.mean([(name in answers[file]) == (name in has) for file, has in truth.items() for name in NAMES]))


def test_the_run_judges_both_int8_files_by_mean_ap(built: tuple) -> None:
    found, bundle, _, _ = built
    verified = next(s["metrics"] for s in found["stages"] if s["name"] == "verify")
    figures = verified["multilabel"]
    assert verified["metric"] == "mean AP" and [row["label"] for row in figures["labels"]] == list(NAMES)
    assert all(v["accuracy"] > 0.9 for v in found["variants"]) and figures["f1"] > 0.8 and 1 < figures["mean_count"] < 2
    assert 0.5 < verified["chance"] < 0.9 and verified["parity"]["top1_share"] is None
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    assert manifest.schema == 3 and "task multilabel" in manifest.requires
    assert manifest.task.thresholds == [row["threshold"] for row in figures["labels"]]
    assert manifest.drift.features[-5:] == ["log labels", "score of labels", "score of disc", "score of square", "confidence"]
    assert "Says which of these labels a sample has" in manifest.model_card
    page = Path(found["report"]).read_text()
    assert "<h2>Labels</h2>" in page and page.count("data:image/jpeg") == 8


@pytest.mark.parametrize("variant", ["onnx-int8", "tflite-int8"])
def test_python_and_agent_answer_the_labels_that_a_picture_has(built: tuple, variant: str, tmp_path: Path) -> None:
    _, bundle, truth, folder = built
    model = edgeloop.open(bundle, variant=variant, state=tmp_path)
    answers = {name: model(folder / name) for name in truth}
    assert right({name: [label.label for label in a.labels] for name, a in answers.items()}, truth) > 0.85
    first = next(a for a in answers.values() if len(a.labels) == 2)
    assert first.labels[0].score >= first.labels[1].score > 0 and first.label is None and first.boxes is None
    done = command("edgeloop-agent", "run", bundle, "--source", folder, "--state", tmp_path, "--variant", variant)
    lines = {row["input"].rsplit("/", 1)[-1]: row for row in map(json.loads, done.stdout.splitlines())}
    assert {n: r["labels"] for n, r in lines.items()} == {
        n: [{"label": label.label, "score": label.score} for label in a.labels] for n, a in answers.items()
    }
    assert model.task == "multilabel" and "multilabel: disc, square" in command("edgeloop-agent", "inspect", bundle).stdout


def test_the_local_api_answers_labels_where_they_are_asked_for(built: tuple, tmp_path: Path) -> None:
    with Bundle.open(built[1]) as bundle:
        samples = bundle.array(bundle.manifest.canary.input)[:2]
    tensor = {"name": "input", "shape": list(samples.shape), "datatype": "UINT8", "data": samples.ravel().tolist()}
    with serving(tmp_path, "[runtime]\nthreads = 1\n", built[1]) as agent:
        for parameters in ({}, {"labels": True}):
            body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
            answer = json.load(urlopen(Request(f"{agent.address}/v2/models/mine/infer", body)))
            assert answer["outputs"][0]["shape"] == [2, 2] and ("labels" in answer.get("parameters", {})) == bool(parameters)
        for wrong, why in ({"boxes": True}, "is for models that find boxes"), ({"labels": "yes"}, "send true or false"):
            with pytest.raises(HTTPError) as caught:
                urlopen(
                    Request(f"{agent.address}/v2/models/mine/infer", json.dumps({"inputs": [tensor], "parameters": wrong}).encode())
                )
            assert caught.value.code == 400 and why in caught.value.read().decode()
    logits = np.array(answer["outputs"][0]["data"]).reshape(2, 2)
    with Bundle.open(built[1]) as bundle:
        limits = np.array(bundle.manifest.task.thresholds)
    for row, labels in zip(logits, answer["parameters"]["labels"], strict=True):
        sure = 1 / (1 + np.exp(-row)) >= limits
        assert {label["label"] for label in labels} == {name for name, yes in zip(NAMES, sure, strict=True) if yes}


def test_a_device_s_canary_counts_labels(built: tuple, tmp_path: Path) -> None:
    from edgeloop_agent.updates import canary

    (tmp_path / "agent.toml").write_text(f'bundles = ["{built[1]}"]\nstate = "{tmp_path / "state"}"\n[source]\nkind = "none"\n')
    outcome = canary.check(tmp_path / "agent.toml", built[1])
    assert outcome.samples == 8 and 13 <= outcome.right <= 16
    with Bundle.open(built[1]) as bundle:
        task, labels = bundle.manifest.task, bundle.array("canary/labels.npy")
        golden = bundle.array(bundle.manifest.canary.scores.file)
    with pytest.raises(GateError, match="of 16 labels of samples right here"):
        canary._count_right(task, -golden, golden, labels)


def test_a_bundle_whose_labels_do_not_fit_is_refused(built: tuple) -> None:
    with Bundle.open(built[1]) as bundle:
        manifest, labels = bundle.manifest, bundle.array("canary/labels.npy")
        arrays = {name: bundle.array(name) for name in manifest.files if name.endswith(".npy")}
    three = replace(manifest, task=replace(manifest.task, labels=["a", "b", "c"], thresholds=[0.5] * 3))
    assert any("answers 2 scores for 3 labels" in why for why in problems(three))
    assert not problems(manifest) and not canary_problems(manifest, arrays.__getitem__)
    for spoiled in (labels + 2, labels[:3], labels[:, 0], labels[:, :1]):
        (why,) = canary_problems(manifest, {**arrays, "canary/labels.npy": spoiled}.__getitem__)
        assert "8 rows of 2 times 0, 1 or 255 are needed" in why
    with pytest.raises(ValueError, match="each label needs one threshold"):
        replace(manifest.task, thresholds=[0.5])


@pytest.mark.long
def test_series_through_prune_and_distill(tmp_path: Path) -> None:
    """Labels as names from a data.py; a student that imitates; early exits are for classes alone."""
    done = edgeloop_here("run", HERE / "projects" / "chords", "--runs", tmp_path, "--json", "--set", "stages.split={seconds: 0.01}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {s["name"] for s in found["stages"]} >= {"prune", "distill", "split"} and all(
        v["accuracy"] > 0.7 for v in found["variants"]
    )
    made = command("edgeloop", "samples", HERE / "projects" / "chords", tmp_path / "samples", "--limit", 20)
    assert made.returncode == 0 and any("low_middle" in p.name for p in (tmp_path / "samples").iterdir())


def test_a_file_of_somebody_else_is_packed_with_several_labels(tmp_path: Path) -> None:
    """It ends in a sigmoid, so its scores are probabilities; each is held against 0.5."""
    weights = {"w": np.eye(3, dtype=np.float32), "b": np.zeros(3, np.float32)}
    nodes = [node("Gemm", "x w b", "z"), node("Sigmoid", "z", "y")]
    model = onnx_file(nodes, [value("x", [1, 3])], [value("y", [1, 3])], weights)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    given = ("pack", tmp_path / "m.onnx", "--out", tmp_path / "m.edgeloop", "--task", "multilabel")
    assert "say what the outputs are with --labels" in sentence(edgeloop_here(*given), 2)
    one = edgeloop_here(*given[:-2], "--labels", "a,b,c")
    assert one.returncode == 0 and "where a sample may have several, say --task multilabel" in one.stdout
    done = edgeloop_here(*given, "--labels", "a,b,c")
    assert done.returncode == 0 and "every label with a probability of 0.5 or more" in done.stdout, done
    answer = edgeloop.open(tmp_path / "m.edgeloop", state=tmp_path)(np.array([2.0, -1.0, 3.0], np.float32))
    assert [label.label for label in answer.labels] == ["c", "a"] and answer.labels[0].score == pytest.approx(0.9526, abs=1e-3)


REFUSED = {
    "mixup": ("train.mixup=0.2", 4, "mixup: does not suit multilabel"),
    "a cascade": ("stages.cascade={bundle: x.edgeloop}", 2, "cascade"),
    "another network": ("network=network.py:wrong", 4, "a logit for each label, of shape (1, 3)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_suit_is_one_sentence(name: str, tmp_path: Path) -> None:
    import shutil

    change, code, why = REFUSED[name]
    folder = Path(shutil.copytree(HERE / "projects" / "chords", tmp_path / "chords"))
    with (folder / "network.py").open("a") as file:
        file.write("\n\ndef wrong(sample_shape, outputs, width=16):\n    return Estimator(sample_shape[0], outputs + 1, width)\n")
    assert why in sentence(edgeloop_here("run", folder, "--runs", tmp_path / "runs", "--set=train.epochs=1", "--set", change), code)
