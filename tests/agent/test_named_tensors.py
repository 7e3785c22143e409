"""Models whose tensors have names: several inputs, state, other layouts and types, through the agent's front doors."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from onnx import TensorProto, helper

from bundles import F, accumulator, onnx_file, two_inputs, write
from commands import command, sentence
from edgeloop_agent.engine import Engine
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.manifest import Classification, Input, Quantization, State, TensorSpec
from serving import serving

CHOICE = VariantChoice("onnx-float32", 1, "")


def engine_of(path: Path) -> Engine:
    with Bundle.open(path) as bundle:
        return Engine(bundle, CHOICE)


@pytest.mark.parametrize(("reset", "second"), [("recording", [4.0, 6.0]), ("never", [8.0, 12.0])])
def test_state_goes_from_window_to_window_and_begins_anew(tmp_path: Path, reset: str, second: list[float]) -> None:
    engine = engine_of(accumulator(tmp_path / "a.edgeloop", reset))
    series = np.array([[1, 2], [3, 4]], np.float32)
    first = [answer.tensors["sum"].tolist() for answer in engine.answers(series)]
    assert first == [[1.0, 2.0], [4.0, 6.0]]
    assert [answer.tensors["sum"].tolist() for answer in engine.answers(series)][1] == second


def test_a_state_that_overflows_begins_anew(tmp_path: Path) -> None:
    engine = engine_of(accumulator(tmp_path / "a.edgeloop", "never"))
    answers = list(engine.answers(np.array([[3e38, 0], [3e38, 0], [1, 2], [1, 2]], np.float32)))
    assert [answer.refused is not None for answer in answers] == [False, True, False, False]
    assert answers[-1].tensors["sum"].tolist() == [2.0, 4.0]


def test_the_answer_of_a_model_without_declared_meaning_is_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n3,4\n5,6\n")
    bundle = accumulator(tmp_path / "a.edgeloop")
    done = command("edgeloop-agent", "run", bundle, "--source", tmp_path / "a.csv", "--state", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["tensors"] for row in rows] == [{"sum": [1, 2]}, {"sum": [4, 6]}, {"sum": [9, 12]}]
    shown = command("edgeloop-agent", "inspect", bundle).stdout
    assert "remembers hn as h" in shown and "needs a reader of schema 2, for" in shown
    assert "not known: right answers of any sample (a device checks the structure only); accuracy" in shown
    bench = command("edgeloop-agent", "bench", bundle, "--seconds", 0.05, "--state", tmp_path / "s")
    assert bench.returncode == 0 and "onnx-float32" in bench.stdout, bench.stderr


def test_several_inputs_by_name(tmp_path: Path) -> None:
    engine = engine_of(two_inputs(tmp_path / "a.edgeloop"))
    (answer,) = engine.answers({"motion": np.array([1.0, 0.0], np.float32), "sound": np.array([0.0, 1.0], np.float32)})
    share = float(np.exp(2) / (np.exp(2) + np.exp(1)))
    assert answer.label == "no" and answer.probabilities["no"] == pytest.approx(share, abs=1e-4)
    for wrong in ({"motion": np.zeros(2)}, {"motion": np.zeros(2), "sounds": np.zeros(2)}, np.zeros(2)):
        with pytest.raises(DataError, match="the model takes motion, sound: send each by its name"):
            list(engine.answers(wrong))


def test_the_local_api_speaks_named_tensors(tmp_path: Path) -> None:
    bundle = two_inputs(tmp_path / "a.edgeloop")
    with serving(tmp_path, '[source]\nkind = "none"\n[runtime]\nvariant = ""\n', bundle) as agent:

        def asked(path: str, body: object = None) -> dict:
            data = None if body is None else json.dumps(body).encode()
            with urllib.request.urlopen(urllib.request.Request(f"{agent.address}{path}", data), timeout=20) as answer:
                return json.loads(answer.read())

        described = asked("/v2/models/named")
        assert [t["name"] for t in described["inputs"]] == ["motion", "sound"]
        assert [t["name"] for t in described["outputs"]] == ["probabilities"]
        tensor = {"datatype": "FP32", "shape": [2, 2], "data": [1, 0, 0, 1]}
        body = {"inputs": [{"name": "motion", **tensor}, {"name": "sound", **tensor}]}
        (output,) = asked("/v2/models/named/infer", body)["outputs"]
        assert output["name"] == "probabilities" and output["shape"] == [2, 2]
        assert output["data"] == pytest.approx([0.9526, 0.0474, 0.0474, 0.9526], abs=1e-4)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            asked("/v2/models/named/infer", {"inputs": body["inputs"][:1]})


def channels_first(path: Path, dtype: int, spec: TensorSpec, sample: TensorSpec) -> Path:
    """y = mean over height and width of each channel of (1, 3, 2, 2)."""
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=F), helper.make_node("ReduceMean", ["f"], ["y"], axes=[2, 3], keepdims=0)]
    model = onnx_file(nodes, [("x", dtype, [1, 3, 2, 2])], [("y", F, [1, 3])])
    return write(
        path, model, [Input(name="input", sample=sample)], [spec],
        [TensorSpec(dtype="float32", shape=[3], tensor="y", batch="one")], task=Classification(labels=["r", "g", "b"]),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_a_prepared_sample_becomes_each_files_own_input(tmp_path: Path, kind: str) -> None:
    """Channels first; floats from counts by value; int8 from floats by the input's own scale, halves away from zero."""
    picture = np.arange(12).reshape(2, 2, 3)
    common = {"shape": [3, 2, 2], "tensor": "x", "layout": "channels-first", "batch": "one"}
    if kind == "float":
        spec, sample = TensorSpec(dtype="float32", **common), TensorSpec(dtype="uint8", shape=[2, 2, 3])
        path, values = channels_first(tmp_path / "a.edgeloop", F, spec, sample), picture.astype(np.uint8)
        wanted = picture.mean((0, 1))
    else:
        spec = TensorSpec(dtype="int8", quantization=Quantization(scale=2.0, zero_point=-3), **common)
        sample = TensorSpec(dtype="float32", shape=[2, 2, 3])
        path, values = channels_first(tmp_path / "a.edgeloop", TensorProto.INT8, spec, sample), picture.astype(np.float32)
        wanted = (np.floor(picture / 2 + 0.5) - 3).mean((0, 1))
    (answer,) = engine_of(path).answers(values)
    logits = np.log(list(answer.probabilities.values()))
    assert logits - logits[0] == pytest.approx(wanted - wanted[0], abs=2e-3)


WRONG = {
    "no such tensor": (TensorSpec(dtype="float32", shape=[2], tensor="z", batch="one"), [], r"has no input 'z' \(it has x, h\)"),
    "another shape": (
        TensorSpec(dtype="float32", shape=[3], tensor="x", batch="one"), [State(input="h", output="hn", dtype="float32", shape=[1, 2])],
        r"input x has shape \[1, 2\] in the file and \[None, 3\] in the manifest",
    ),
    "an input that nothing feeds": (TensorSpec(dtype="float32", shape=[2], tensor="x", batch="one"), [], "takes an input 'h' that"),
    "a state that is not there": (
        TensorSpec(dtype="float32", shape=[2], tensor="x", batch="one"), [State(input="h", output="hm", dtype="float32", shape=[1, 2])],
        "has no output 'hm'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "shape", "fits"), [("none", [1, 1, 2], True), ("any", [1, 2], True), ("any", [2], False), ("none", [1, 1, 3], False)]
)
def test_an_output_that_the_file_declares_with_another_rank_is_what_the_file_gives(
    batch: Literal["none", "any"], shape: list[int], fits: bool, tmp_path: Path
) -> None:
    """Old exporters write such files, and ONNX Runtime runs them: answers have the manifest's shape, or are refused."""
    nodes = [helper.make_node("Unsqueeze", ["x", "axes"], ["y"])]
    model = onnx_file(
        nodes, [("x", F, [1, 2])], [("y", F, ["n", "long"] if len(shape) > 1 else ["n"])], axes=np.array([0], np.int64)
    )
    path = write(
        tmp_path / "a.edgeloop", model, [Input(name="input", sample=TensorSpec(dtype="float32", shape=[2]))],
        [TensorSpec(dtype="float32", shape=[2], tensor="x", batch="one")],
        [TensorSpec(dtype="float32", shape=shape, name="y", tensor="y", batch=batch)],
    )  # fmt: skip
    if fits:
        (answer,) = engine_of(path).answers(np.array([3, 4], np.float32))
        assert np.array(answer.tensors["y"]).reshape(-1).tolist() == [3.0, 4.0]
    else:
        with pytest.raises(DeviceError, match="failed"):
            list(engine_of(path).answers(np.array([3, 4], np.float32)))


@pytest.mark.parametrize("name", WRONG)
def test_manifest_and_file_that_disagree_are_refused_when_loaded(name: str, tmp_path: Path) -> None:
    spec, states, said = WRONG[name]
    model = onnx_file(
        [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Identity", ["y"], ["hn"])],
        [("x", F, [1, 2]), ("h", F, [1, 2])], [("y", F, [1, 2]), ("hn", F, [1, 2])],
    )  # fmt: skip
    path = write(
        tmp_path / "a.edgeloop", model, [Input(name="input", sample=TensorSpec(dtype="float32", shape=spec.shape))], [spec],
        [TensorSpec(dtype="float32", shape=[2], name="sum", tensor="y", batch="one")], states,
    )  # fmt: skip
    with pytest.raises(DeviceError, match=said):
        engine_of(path)
    shown = sentence(command("edgeloop-agent", "run", path, "--source", tmp_path, "--state", tmp_path / "s"), 6)
    assert "pack the bundle again" in shown


def test_arrays_by_input_from_files_and_lines(tmp_path: Path) -> None:
    """An .npz with an array for each input, and JSON lines; any shape, one dimension too."""
    bundle = two_inputs(tmp_path / "a.edgeloop")
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", motion=np.array([1.0, 0.0]), sound=np.array([0.0, 1.0]))
    np.savez(tmp_path / "in" / "b.npz", motion=np.array([1.0, 0.0]), noise=np.array([0.0, 1.0]))
    (tmp_path / "in" / "c.npz").write_bytes(b"PK\x03\x04 not a zip")
    done = command("edgeloop-agent", "run", bundle, "--source", tmp_path / "in", "--state", tmp_path / "s")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["label"] == "no" and "send each by its name" in rows[1]["refused"] and "cannot be read" in rows[2]["refused"]
    lines = '{"name": "x", "inputs": {"motion": [1, 0], "sound": [0, 1]}}\n{"inputs": {"motion": [[1], 2]}}\n{"inputs": {}}\n'
    done = command("edgeloop-agent", "run", bundle, "--source", "-", "--state", tmp_path / "s", stdin=lines)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[0]["input"] == "x" and rows[0]["label"] == "no"
    assert "motion" in rows[1]["refused"] and rows[2]["refused"] == "has no 'motion'; it has nothing"


@pytest.mark.parametrize("letters", [b"nnnn", b"Identity"])
def test_a_file_whose_names_are_no_text_is_refused_in_one_sentence(
    letters: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Standard output is the answers' own: the runtime prints nothing there."""
    model = onnx_file([helper.make_node("Identity", ["x"], ["y"])], [("x", F, ["nnnn", 2])], [("y", F, ["nnnn", 2])])
    spec = TensorSpec(dtype="float32", shape=[2])
    path = write(
        tmp_path / "a.edgeloop", model.replace(letters, b"\x95" + letters[1:]), [Input(name="input", sample=spec)], [spec], [spec]
    )
    with Bundle.open(path) as bundle, pytest.raises(DeviceError, match="another variant") as caught:
        Engine(bundle, VariantChoice("onnx-float32", 1, ""))
    assert "\n" not in str(caught.value) and not capfd.readouterr().out


def test_values_beyond_the_models_type_are_refused(tmp_path: Path) -> None:
    with Bundle.open(two_inputs(tmp_path / "a.edgeloop")) as bundle:
        engine = Engine(bundle, VariantChoice("onnx-float32", 1, ""))
    with pytest.raises(DataError, match="values beyond float32"):
        list(engine.answers({"motion": np.array([1e39, 0.0]), "sound": np.zeros(2)}))
