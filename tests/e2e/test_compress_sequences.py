"""Labels of recordings for models that keep state: which answer a label is of, accuracy in the report, labels from the agent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from test_compress import compressed
from test_compress_inputs import HIDDEN, TIMES, WIDTH, recurrent

from bundles import F, onnx_file
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Classification, Multilabel
from edgeloop_pipeline.data.sequence_labels import SequenceLabels

STEPS = f"[{{step: window, length: 1, hop: 1}}, {{step: reshape, shape: [{WIDTH}]}}]"
STATES = ("--state", "h=hn", "--state", "c=cn", "--preprocess", STEPS)
LABELS = ("--labels", "noise,word")


@pytest.mark.parametrize(
    ("at", "answers", "rows"),
    [("last", [0, 2], [3, 5]), ("any", [1, 2], [3, 5]), ("every", [0, 0, 1, 0, 1, 2], [0, 1, 2, 3, 4, 5])],
)
def test_a_label_is_of_the_answers_that_it_says(at: str, answers: list[int], rows: list[int]) -> None:
    """Two recordings of four and two windows; logits of different heights are compared as probabilities."""
    scores = np.array([[2, 0, 0], [9, 0, 0], [0, 3, 0], [5, 0, 0], [0, 30, 29.5], [0, 0, 4]], float)
    found, of = SequenceLabels(output="y", at=at).answers(scores, np.array([0, 0, 0, 0, 1, 1]))  # type: ignore[arg-type]
    assert (found.tolist(), of.tolist()) == (answers, rows)


@pytest.mark.parametrize(("kind", "least"), [("probabilities", 0.5), ("logits", 0.0)])
def test_one_score_is_two_labels(kind: str, least: float) -> None:
    scores = np.array([[least - 0.1], [least + 0.1], [least - 0.2], [least - 0.3]])
    named = SequenceLabels(output="y", at="any", scores=kind, single=True)  # type: ignore[arg-type]
    found, _ = named.answers(scores, np.array([0, 0, 1, 1]))
    assert found.tolist() == [1, 0]
    assert named.task(["noise", "speech"]) == Multilabel(labels=["speech"], thresholds=[0.5], scores=kind)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings in folders after the original's last answer; of one in four it is the other one."""
    folder, rng = tmp_path_factory.mktemp("words"), np.random.default_rng(3)
    (folder / "net.onnx").write_bytes(recurrent())
    session = onnxruntime.InferenceSession(recurrent())
    for i in range(60):
        values = np.cumsum(rng.normal(0, 0.5, (TIMES, WIDTH)), 0).astype(np.float32)
        h = c = np.zeros((1, 1, HIDDEN), np.float32)
        for row in values:
            scores, h, c = session.run(None, {"frame": row[None], "h": h, "c": c})
        label = LABELS[1].split(",")[(int(scores.argmax()) + (i % 4 == 0)) % 2]
        (folder / "data" / label).mkdir(parents=True, exist_ok=True)
        np.save(folder / "data" / label / f"{i:02}.npy", values)
    return folder


@pytest.mark.long
def test_labels_of_recordings_give_accuracy_and_the_agent_answers_labels(words: Path, tmp_path: Path) -> None:
    found, said = compressed(words / "net.onnx", words / "data", tmp_path / "small", *STATES, *LABELS, "--label-at", "last")
    assert "accuracy is measured by the labels of recordings: at its last window" in said
    verified = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]
    assert verified["metric"] == "accuracy" and set(verified["variants"]) == {"onnx-int8", "tflite-int8"}
    assert 0.5 <= verified["float_accuracy"]["value"] < 1 and verified["float_accuracy"]["samples"] == 15
    assert all(file["accuracy"]["value"] >= verified["float_accuracy"]["value"] - 0.1 for file in verified["variants"].values())
    bundle = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        assert manifest.task == Classification(labels=["noise", "word"], scores="probabilities")
        assert manifest.variants[0].accuracy is not None and manifest.variants[0].accuracy.samples == 15
        assert "at a recording's last window has its label" in manifest.model_card and "Nobody labelled" not in manifest.model_card
    right = []
    for path in sorted((words / "data").rglob("*.npy"))[:10]:
        done = command("edgeloop-agent", "run", bundle, "--source", path)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(lines) == TIMES, done.stderr
        right.append(lines[-1]["label"] == path.parent.name)
    assert np.mean(right) >= 0.5


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([*LABELS], "say which answer a label is of: --label-at last"),
        (["--label-at", "last"], "--label-at: say --labels too"),
        (["--labels", "a,b,c", "--label-at", "last"], "--labels: there are 3; speech [2] needs 2 labels"),
        (["--labels", "a,b", "--label-at", "any"], "are not named after a, b; name them so"),
        ([*LABELS, "--label-at", "last", "--measure", "signal"], "--measure: labels of recordings are measured by accuracy"),
        (["--task", "classification"], "say --labels and --label-at instead"),
        ([*LABELS, "--label-at", "last", "--label-column", "x"], "is no table with a column for each input"),
    ],
)  # fmt: skip
def test_what_labels_cannot_be_is_one_sentence(more: list[str], why: str, words: Path, tmp_path: Path) -> None:
    done = edgeloop_here("compress", words / "net.onnx", "--calibrate", words / "data", "--out", tmp_path / "no", *STATES, *more)
    assert why in sentence(done, done.returncode) and done.returncode and not (tmp_path / "no").exists()


def sequence(broken: bool = False, flat: bool = True) -> bytes:
    """An LSTM along the first axis, from states of one sample; one value for each step. `broken`: the steps' mean is in the answers."""
    rng = np.random.default_rng(2)
    weights = {
        "w": rng.normal(0, 0.4, (1, 4 * HIDDEN, WIDTH)), "r": rng.normal(0, 0.4, (1, 4 * HIDDEN, HIDDEN)),
        "b": rng.normal(0, 0.1, (1, 8 * HIDDEN)), "o": rng.normal(0, 0.8, (HIDDEN, 1)), "e": np.zeros(1),
    }  # fmt: skip
    whole = {
        "one": np.array([1], np.int64),
        "both": np.array([1, 2], np.int64),
        "flat": np.array([-1] if flat else [-1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["frames", "one"], ["x"]),
        helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "hn", "cn"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["y", "both"], ["rows"]), helper.make_node("Gemm", ["rows", "o", "e"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["p"]), helper.make_node("Reshape", ["p", "flat"], ["plain" if broken else "speech"]),
    ]  # fmt: skip
    if broken:
        nodes += [helper.make_node("ReduceMean", ["p"], ["m"], keepdims=0), helper.make_node("Add", ["plain", "m"], ["speech"])]
    state = [1, 1, HIDDEN]
    return onnx_file(
        nodes, [("frames", F, ["steps", WIDTH]), ("h", F, state), ("c", F, state)],
        [("speech", F, ["steps"] if flat else ["steps", 1]), ("hn", F, state), ("cn", F, state)],
        **{k: v.astype(np.float32) for k, v in weights.items()}, **whole,
    )  # fmt: skip


@pytest.mark.long
def test_a_file_that_takes_whole_sequences_takes_single_steps(tmp_path: Path) -> None:
    """As Silero's `16k_sequence` form: (steps, values), states (1, 1, hidden), a value a step."""
    (tmp_path / "net.onnx").write_bytes(sequence())
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(3)
    series = [np.cumsum(rng.normal(0, 0.5, (TIMES, WIDTH)), 0).astype(np.float32) for _ in range(16)]
    for i, values in enumerate(series):
        np.save(tmp_path / "data" / f"{i:02}.npy", values)
    found, said = compressed(tmp_path / "net.onnx", tmp_path / "data", tmp_path / "small", "--preprocess", STEPS)
    assert "the first axis of frames is a sequence: the files take one step a call" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert min(file["accuracy"]["value"] for file in files.values()) >= 0.98
    bundle = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    done = command("edgeloop-agent", "run", bundle, "--source", tmp_path / "data" / "00.npy")
    own = np.array([json.loads(line)["tensors"]["speech"] for line in done.stdout.splitlines()]).reshape(-1)
    zeros = np.zeros((1, 1, HIDDEN), np.float32)
    (whole,) = onnxruntime.InferenceSession(sequence()).run(["speech"], {"frames": series[0], "h": zeros, "c": zeros})
    assert own.shape == (TIMES,) and np.abs(own - whole).max() < 0.05


def test_a_sequence_whose_steps_are_not_alone_is_refused(words: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(sequence(broken=True))
    where = ("--calibrate", words / "data", "--out", tmp_path / "no", "--preprocess", STEPS)
    said = sentence(edgeloop_here("compress", tmp_path / "net.onnx", *where), 4)
    assert "step by step it answers speech differently" in said
    (tmp_path / "net.onnx").write_bytes(sequence(flat=False))
    said = sentence(edgeloop_here("compress", tmp_path / "net.onnx", *where, "--io", "original"), 2)
    assert "takes whole sequences; its int8 files take one step a call" in said
