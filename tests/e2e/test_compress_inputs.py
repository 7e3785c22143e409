"""Models with several inputs, and with state, through `edgeloop compress`: each input keeps its name, type and scale, to the answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from test_compress import compressed

import edgeloop
from bundles import F, onnx_file
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_exporters.named_inputs import NamedInput, put_together, take_apart
from edgeloop_exporters.state_axes import with_batch_first
from edgeloop_pipeline.data import original_answers
from edgeloop_pipeline.data.original_answers import Original, with_states
from edgeloop_pipeline.data.types import PreparedSplits, Samples

INT = TensorProto.INT64
LABELS = "red,green,blue"
HIDDEN, WIDTH, TIMES = 12, 6, 20
LARGE = 20_000.0  # of one input against the other: one scale for both would leave nothing of the other


def three_inputs() -> bytes:
    """A picture, five large numbers, and the number of a place."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.normal(0, 0.3, (8, 3, 3, 3)), "b": rng.normal(0, 0.1, 8), "m": rng.normal(0, 1 / LARGE, (5, 8)),
        "table": rng.normal(0, 0.5, (7, 8)), "o": rng.normal(0, 0.6, (24, 3)), "e": np.zeros(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["one"]), helper.make_node("MatMul", ["meta", "m"], ["n"]),
        helper.make_node("Relu", ["n"], ["two"]), helper.make_node("Gather", ["table", "place"], ["t"]),
        helper.make_node("Flatten", ["t"], ["three"]), helper.make_node("Concat", ["one", "two", "three"], ["all"], axis=1),
        helper.make_node("Gemm", ["all", "o", "e"], ["logits"]),
    ]  # fmt: skip
    inputs = [("image", F, ["batch", 3, 16, 16]), ("meta", F, ["batch", 5]), ("place", INT, ["batch", 1])]
    return onnx_file(nodes, inputs, [("logits", F, ["batch", 3])], **{k: v.astype(np.float32) for k, v in weights.items()})


def recording(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "image": rng.normal(0, 1, (3, 16, 16)).astype(np.float32), "meta": rng.normal(0, LARGE, 5).astype(np.float32),
        "place": rng.integers(0, 7, 1),
    }  # fmt: skip


def recurrent(branch: bool = False) -> bytes:
    """An LSTM that is fed its two states, whose batch is the second axis, as torch exports it. `branch`: a state is read in one."""
    rng = np.random.default_rng(2)
    weights = {
        "w": rng.normal(0, 0.4, (1, 4 * HIDDEN, WIDTH)), "r": rng.normal(0, 0.4, (1, 4 * HIDDEN, HIDDEN)),
        "b": rng.normal(0, 0.1, (1, 8 * HIDDEN)), "o": rng.normal(0, 0.8, (HIDDEN, 2)), "e": np.zeros(2),
    }  # fmt: skip
    constants = {k: v.astype(np.float32) for k, v in weights.items()} | {"first": np.array([1], np.int64)}
    name, nodes = "h", [helper.make_node("Unsqueeze", ["frame", "zero"], ["x"])]
    constants["zero"] = np.array([0], np.int64)
    if branch:
        name = "kept"
        value = helper.make_tensor_value_info("v", F, None)
        inside = [helper.make_graph([helper.make_node("Identity", ["h"], ["v"])], side, [], [value]) for side in ("yes", "no")]
        constants["is_16k"] = np.array(True)
        nodes.append(helper.make_node("If", ["is_16k"], ["kept"], then_branch=inside[0], else_branch=inside[1]))
    nodes += [
        helper.make_node("LSTM", ["x", "w", "r", "b", "", name, "c"], ["y", "hn", "cn"], hidden_size=HIDDEN),
        helper.make_node("Squeeze", ["hn", "zero"], ["last"]), helper.make_node("Gemm", ["last", "o", "e"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["speech"]),
    ]  # fmt: skip
    state = [1, "batch", HIDDEN]
    return onnx_file(
        nodes, [("frame", F, ["batch", WIDTH]), ("h", F, state), ("c", F, state)],
        [("speech", F, ["batch", 2]), ("hn", F, state), ("cn", F, state)], **constants,
    )  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("samples"), np.random.default_rng(0)
    for i in range(60):
        np.savez(folder / f"{i:02}.npz", **recording(rng))
    return folder


def test_each_of_several_inputs_keeps_its_name_and_a_scale_of_its_own_to_the_answer(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    found, said = compressed(tmp_path / "net.onnx", samples, tmp_path / "small", "--labels", LABELS, "--io", "original")
    assert "input place int64 [1]: goes in as it is" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert min(file["accuracy"]["value"] for file in files.values()) >= 0.9
    written = onnx.load(tmp_path / "runs" / "small" / "onnx-int8.onnx").graph
    assert [entry.name for entry in written.input] == ["image", "meta", "place"]
    bundle = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    with Bundle.open(bundle) as opened:
        assert [(e.name, e.sample.shape) for e in opened.manifest.inputs] == [("image", [3, 16, 16]), ("meta", [5]), ("place", [1])]
        assert opened.manifest.drift is not None and "meta: mean of channel 1" in opened.manifest.drift.features
        assert {tuple(spec.tensor for spec in v.inputs) for v in opened.manifest.variants} == {("image", "meta", "place")}
    original = onnxruntime.InferenceSession(three_inputs())
    rng, model, same = np.random.default_rng(9), edgeloop.open(bundle), 0
    for _ in range(40):
        given = recording(rng)
        (wanted,) = original.run(None, {name: values[None] for name, values in given.items()})
        same += model(given).label == LABELS.split(",")[int(wanted.argmax())]
    assert same >= 36
    place = onnxruntime.InferenceSession(tmp_path / "runs" / "small" / "drop-in.onnx")
    assert ports(place) == ports(original)
    logits = [place.run(None, {name: values[None] for name, values in recording(rng).items()})[0] for _ in range(9)]
    assert {row.shape for row in logits} == {(1, 3)} and runs_as_it_says(tmp_path / "runs" / "small") == "(1, 3)"
    done = command("edgeloop-agent", "run", bundle, "--source", samples)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(answers) == 60 and all(answer["label"] in LABELS.split(",") for answer in answers)


@pytest.mark.long
def test_folders_that_are_named_after_the_labels_give_accuracy_for_several_inputs(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    original, rng = onnxruntime.InferenceSession(three_inputs()), np.random.default_rng(4)
    for i in range(80):
        given = recording(rng)
        (scores,) = original.run(None, {name: values[None] for name, values in given.items()})
        label = (int(scores.argmax()) + (i % 10 == 0)) % 3  # a tenth of the labels is not what the model answers
        folder = tmp_path / "seen" / LABELS.split(",")[label]
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / f"{i:02}.npz", **given)
    found, said = compressed(tmp_path / "net.onnx", tmp_path / "seen", tmp_path / "small", "--labels", LABELS)
    assert "the folders are named after the labels: accuracy is measured" in said
    verified = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]
    assert verified["metric"] == "accuracy" and 0.7 <= verified["float_accuracy"]["value"] < 1
    assert all(file["accuracy"]["value"] >= verified["float_accuracy"]["value"] - 0.1 for file in verified["variants"].values())


def test_a_state_is_carried_over_a_recording_and_its_rounding_does_not_add_up(tmp_path: Path) -> None:
    content, rng = recurrent(branch=True), np.random.default_rng(3)
    (tmp_path / "net.onnx").write_bytes(content)
    (tmp_path / "series").mkdir()
    series = [np.cumsum(rng.normal(0, 0.5, (TIMES, WIDTH)), 0).astype(np.float32) for _ in range(16)]
    for i, values in enumerate(series):
        np.save(tmp_path / "series" / f"{i:02}.npy", values)
    steps = f"[{{step: window, length: 1, hop: 1}}, {{step: reshape, shape: [{WIDTH}]}}]"
    found, said = compressed(
        tmp_path / "net.onnx", tmp_path / "series", tmp_path / "small", "--preprocess", steps, "--state", "h=hn", "--state", "c=cn",
        "--measure", "signal", "--io", "original",
    )  # fmt: skip
    assert "input h float32 [1, 12]: is hn of the call before" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert set(files) == {"onnx-int8", "tflite-int8"} and min(file["accuracy"]["value"] for file in files.values()) >= 0.98
    bundle = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    with Bundle.open(bundle) as opened:
        assert [[(s.input, s.output, s.dtype) for s in v.states] for v in opened.manifest.variants] == [
            [("h", "hn", "float32"), ("c", "cn", "float32")]
        ] * 2
    session, zeros = onnxruntime.InferenceSession(content), np.zeros((1, 1, HIDDEN), np.float32)

    def answers(values: np.ndarray, carried: bool) -> np.ndarray:
        h = c = zeros
        rows = []
        for row in values:
            speech, hn, cn = session.run(None, {"frame": row[None], "h": h, "c": c})
            rows.append(speech[0])
            h, c = (hn, cn) if carried else (zeros, zeros)
        return np.stack(rows)

    done = command("edgeloop-agent", "run", bundle, "--source", tmp_path / "series" / "00.npy")
    own = np.array([next(iter(json.loads(line)["tensors"].values())) for line in done.stdout.splitlines()])
    assert own.shape == (TIMES, 2) and np.abs(own - answers(series[0], True)).max() < 0.05
    assert np.abs(own - answers(series[0], False)).max() > 0.1  # it does remember
    # In the original's place, with the batch of its states second, as the original has it.
    exact, session = answers(series[0], True), onnxruntime.InferenceSession(tmp_path / "runs" / "small" / "drop-in.onnx")
    assert [port[:2] for port in ports(session)] == [port[:2] for port in ports(onnxruntime.InferenceSession(content))]
    assert np.abs(answers(series[0], True) - exact).max() < 0.05
    assert runs_as_it_says(tmp_path / "runs" / "small") == "(1, 2) (1, 1, 12) (1, 1, 12)"


def test_states_are_those_of_the_original_and_windows_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.onnx").write_bytes(with_batch_first(recurrent(), {"h": "hn", "c": "cn"}, "net.onnx") or b"")
    state = (1, HIDDEN)
    inputs = (NamedInput("frame", (WIDTH,)), NamedInput("h", state, output="hn"), NamedInput("c", state, output="cn"))
    frames = np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)
    recording = np.repeat([0, 1], 4)
    given = Samples(put_together({"frame": frames}, inputs), np.zeros(8), recording, recording)
    monkeypatch.setattr(original_answers, "MOST_WINDOWS", 6)
    found = with_states(
        PreparedSplits(("answer",), given, given, given, inputs=inputs), Original(tmp_path / "net.onnx", inputs=inputs)
    )
    assert len(found.train) == 6 and found.notes[0] == "train: the first 6 of 8 windows are used"
    parts = take_apart(found.train.values, inputs)
    assert not parts["h"][[0, 4]].any() and parts["h"][[1, 2, 3, 5]].any(axis=(1, 2)).all()  # each recording begins with zeros
    session = onnxruntime.InferenceSession((tmp_path / "net.onnx").read_bytes())
    (hn,) = session.run(["hn"], {name: part[2:3] for name, part in parts.items()})
    assert np.allclose(parts["h"][3], hn[0], atol=1e-6)


def test_an_input_that_never_changes_becomes_a_constant(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    for file in samples.glob("*.npz"):
        with np.load(file) as arrays:
            np.savez(tmp_path / file.name, image=arrays["image"], meta=arrays["meta"])
    done = edgeloop_here(
        "compress", tmp_path / "net.onnx", "--calibrate", tmp_path, "--out", tmp_path / "small", "--labels", LABELS, "--constant",
        "place=3", "--prepare-only",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession((tmp_path / "small" / "model.onnx").read_bytes())
    given = recording(np.random.default_rng(4)) | {"place": np.array([3])}
    (wanted,) = onnxruntime.InferenceSession(three_inputs()).run(None, {name: values[None] for name, values in given.items()})
    (answer,) = session.run(None, {name: given[name][None] for name in ("image", "meta")})
    assert np.array_equal(answer, wanted)


def test_the_only_input_that_is_left_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    np.save(tmp_path / "pictures.npy", np.random.default_rng(6).normal(size=(24, 3, 16, 16)).astype(np.float32))
    words = ("--calibrate", tmp_path / "pictures.npy", "--labels", LABELS, "--constant", "place=3", "--constant", "meta=1,2,3,4,5")
    done = edgeloop_here(
        "compress", tmp_path / "net.onnx", *words, "--size", "image=3x16x16", "--out", tmp_path / "small", "--prepare-only"
    )
    assert done.returncode == 0, done.stderr
    done = edgeloop_here(
        "compress", tmp_path / "net.onnx", *words, "--size", "meta=5", "--out", tmp_path / "other", "--prepare-only"
    )
    assert "has one input, image" in sentence(done, 2) and not (tmp_path / "other").exists()


def ports(session: onnxruntime.InferenceSession) -> list[tuple[str, str, list[object]]]:
    """Inputs and outputs: name, type, and sizes but for the batch's name."""
    values = (*session.get_inputs(), *session.get_outputs())
    return [(v.name, v.type, [size if isinstance(size, int) else None for size in v.shape]) for v in values]


def runs_as_it_says(folder: Path) -> str:
    done = subprocess.run([sys.executable, "drop-in.py"], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    text = (folder / "drop-in.cpp").read_text()
    assert "session.Run" in text and all(f'"{value.name}"' in text for value in onnx.load(folder / "drop-in.onnx").graph.input)
    return done.stdout.strip()


BAD_DATA = {
    "an array is missing": (
        {"meta": None},
        "has image, place; the model takes image, meta, place: save an array or a text of each",
    ),
    "another shape": ({"meta": np.zeros(6)}, "meta: a sample has shape [6]; the model takes [5]"),
    "halves where numbers count": ({"place": np.array([0.5])}, "place: takes whole numbers (int64)"),
    "not a number": ({"meta": np.full(5, np.nan)}, "meta has values that are no finite numbers"),
    "texts": ({"meta": np.array(["a"] * 5)}, "meta: values of type <U1; send numbers"),
    "numbers that no float holds": ({"place": np.array([1 << 40])}, "place: has whole numbers beyond 16777216"),
}


@pytest.mark.parametrize("changed,why", BAD_DATA.values(), ids=list(BAD_DATA))
def test_recordings_that_do_not_fit_are_named(changed: dict, why: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        np.savez(tmp_path / "data" / f"{i}.npz", **{k: v for k, v in {**recording(rng), **changed}.items() if v is not None})
    done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", tmp_path / "data", "--out", tmp_path / "small")
    assert why in sentence(done, 3) and not (tmp_path / "small").exists()


BAD_WORDS = {
    "normalization": (["--normalize", "unit"], "--normalize: ", "--preprocess NAME=STEPS"),
    "steps of no input": (["--preprocess", "[{step: to_float}]"], "has several inputs; say of which"),
    "steps of another": (["--preprocess", "nope=[{step: to_float}]"], "--preprocess nope=…: ", "the inputs image, meta, place"),
    "a size of another": (["--size", "nope=3x4"], "--size nope=…: "),
    "another size": (["--size", "image=3x4x4"], "the file has [3, 16, 16] behind the batch"),
    "a constant of another": (["--constant", "nope=3"], "--constant nope=…: "),
    "two values": (["--constant", "place=3,4"], "2 values; shape [1, 1] needs 1"),
    "a state of another": (["--state", "meta=nope"], "--state meta=nope: "),
    "a state that does not fit": (["--state", "meta=logits"], "the one cannot be the other at the next call"),
}


@pytest.mark.parametrize("words", BAD_WORDS.values(), ids=list(BAD_WORDS))
def test_what_is_not_for_several_inputs_is_refused_in_one_sentence(words: tuple, samples: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    said = sentence(
        edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", samples, "--out", tmp_path / "small", *words[0]), 2
    )
    assert all(part in said for part in words[1:]) and not (tmp_path / "small").exists()


def test_files_with_one_array_and_rows_that_differ_in_number_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(three_inputs())
    np.save(tmp_path / "one.npy", np.zeros((9, 3, 16, 16), np.float32))
    np.savez(tmp_path / "rows.npz", image=np.zeros((9, 3, 16, 16)), meta=np.zeros((8, 5)), place=np.zeros((9, 1)))
    for name, why in (("one.npy", "the model has several inputs: give .npz files"), ("rows.npz", "image has 9, meta has 8")):
        done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", tmp_path / name, "--out", tmp_path / "small")
        assert why in sentence(done, 3)
