"""Models that take whole numbers or sound as they are stored: arrays of ids, pictures in 8 bits, points of a waveform."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from test_compress import compressed

import edgeloop
from bundles import F, onnx_file
from commands import edgeloop_here, sentence
from edgeloop_pipeline.recipe.recipe import load
from sound_models import recordings

LENGTH, KINDS, WIDTH, SIDE, POINTS = 24, 17, 16, 12, 1000


def of_ids() -> bytes:
    """As JAX writes it: one-hot rows by comparison, a linear layer, a norm that puts its batch back by a shape."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(0, 0.5, (KINDS, WIDTH)), "b": rng.normal(0, 0.2, WIDTH), "o": rng.normal(0, 0.5, (WIDTH, 3))}
    constants = {name: values.astype(np.float32) for name, values in weights.items()} | {
        "kinds": np.arange(KINDS, dtype=np.int32).reshape(1, 1, KINDS), "last": np.array([-1], np.int64),
        "middle": np.array([1], np.int64), "zero": np.array([0], np.int64), "one": np.array([1], np.int64),
        "least": np.array(0.1, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "last"], ["spread"]), helper.make_node("Equal", ["spread", "kinds"], ["same"]),
        helper.make_node("Cast", ["same"], ["hot"], to=F), helper.make_node("MatMul", ["hot", "w"], ["rows"]),
        helper.make_node("Add", ["rows", "b"], ["biased"]), helper.make_node("Relu", ["biased"], ["bent"]),
        helper.make_node("ReduceMean", ["bent"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["mean"], ["level"], axes=[1], keepdims=0),
        helper.make_node("Shape", ["ids"], ["shape"]), helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "middle"], ["column"], axis=0), helper.make_node("Reshape", ["level", "column"], ["high"]),
        helper.make_node("Add", ["high", "least"], ["above"]), helper.make_node("Div", ["mean", "above"], ["even"]),
        helper.make_node("MatMul", ["even", "o"], ["scores"]),
    ]  # fmt: skip
    return onnx_file(nodes, [("ids", TensorProto.INT32, ["batch", LENGTH])], [("scores", F, ["batch", 3])], **constants)


@pytest.mark.long
def test_arrays_of_ids_go_in_as_they_are_and_ids_that_are_none_give_what_they_gave(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(of_ids())
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.integers(0, KINDS, (96, LENGTH)).astype(np.int32))
    found, said = compressed(tmp_path / "net.onnx", tmp_path / "rows.npy", tmp_path / "small", "--labels", "a,b,c")
    assert f"input ids int32 [{LENGTH}]: goes in as it is" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert set(files) == {"onnx-int8", "tflite-int8"} and min(file["accuracy"]["value"] for file in files.values()) >= 0.9
    written = onnx.load(tmp_path / "runs" / "small" / "onnx-int8.onnx").graph
    assert [entry.type.tensor_type.elem_type for entry in written.input] == [TensorProto.INT32]
    assert "Gather" in {node.op_type for node in written.node} and "Equal" not in {node.op_type for node in written.node}
    original = onnxruntime.InferenceSession(of_ids())
    strange = rng.integers(-40, 60, (40, LENGTH)).astype(np.int32)  # most are no ids of the model
    for variant in files:
        model, same = edgeloop.open(next((tmp_path / "runs" / "small").glob("*.edgeloop")), variant=variant), 0
        for ids in (*strange, *rng.integers(0, KINDS, (40, LENGTH)).astype(np.int32)):
            same += model(ids).label == "abc"[int(original.run(None, {"ids": ids[None]})[0].argmax())]
        assert same >= 76


def test_ids_without_arrays_still_ask_for_the_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(of_ids())
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("hello", encoding="utf-8")
    done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", tmp_path / "texts", "--out", tmp_path / "small")
    assert "say which tokenizer.json makes them, with --tokenizer" in sentence(done, 2)


def of_counts() -> bytes:
    """A network of pictures in 8 bits, channels last, as TensorFlow's exporters write it."""
    rng = np.random.default_rng(2)
    weights = {"w": rng.normal(0, 0.3, (8, 3, 3, 3)), "d": rng.normal(0, 0.7, (8, 3)), "scale": np.array(255.0)}
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=F),
        helper.make_node("Div", ["real", "scale"], ["share"]), helper.make_node("Transpose", ["share"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "d"], ["scores"]),
    ]  # fmt: skip
    constants = {name: values.astype(np.float32) for name, values in weights.items()}
    return onnx_file(nodes, [("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])], [("scores", F, ["batch", 3])], **constants)


@pytest.mark.long
def test_pictures_in_8_bits_need_no_normalization(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(of_counts())
    rng = np.random.default_rng(3)
    (tmp_path / "pictures").mkdir()
    for i in range(48):
        noisy = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 25, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "pictures" / f"{i:02}.png")
    found, said = compressed(tmp_path / "net.onnx", tmp_path / "pictures", tmp_path / "small", "--labels", "a,b,c")
    assert "the network normalizes by itself (it takes whole numbers): counts from 0 to 255 go in" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert min(file["accuracy"]["value"] for file in files.values()) >= 0.9
    original = onnxruntime.InferenceSession(of_counts())
    model, same = edgeloop.open(next((tmp_path / "runs" / "small").glob("*.edgeloop"))), 0
    for path in sorted((tmp_path / "pictures").glob("*.png")):
        (scores,) = original.run(None, {"image": np.asarray(Image.open(path))[None]})
        same += model(path).label == "abc"[int(scores.argmax())]
    assert same >= 46


def of_sound() -> bytes:
    rng = np.random.default_rng(4)
    weights = {"w": rng.normal(0, 0.2, (8, 1, 16)), "v": rng.normal(0, 0.2, (8, 8, 8)), "d": rng.normal(0, 1.0, (8, 4))}
    nodes = [
        helper.make_node("Transpose", ["sound"], ["first"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["first", "w"], ["a"], kernel_shape=[16], strides=[8]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], kernel_shape=[8], strides=[4]), helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "d"], ["vector"]),
    ]  # fmt: skip
    constants = {name: values.astype(np.float32) for name, values in weights.items()}
    return onnx_file(nodes, [("sound", F, ["batch", POINTS, 1])], [("vector", F, ["batch", 4])], **constants)


@pytest.mark.parametrize("how", [pytest.param("waveform", marks=pytest.mark.long), ""])
def test_a_waveform_is_cut_into_pieces_and_never_taken_at_a_guessed_scale(how: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(of_sound())
    sounds = recordings(tmp_path / "sounds", 24)
    if not how:
        done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", sounds, "--out", tmp_path / "small")
        assert "say --normalize waveform (−1 to 1), counts" in sentence(done, 2)
        assert not (tmp_path / "small").exists()
        return
    found, said = compressed(tmp_path / "net.onnx", sounds, tmp_path / "small", "--normalize", how)
    assert "normalization waveform, as said" in said and "sound is cut into pieces of 1,000 points at its own rate" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert min(file["accuracy"]["value"] for file in files.values()) >= 0.98
    (step,) = load(tmp_path / "small" / "recipe.yaml").head.preprocessing
    assert (step.length, step.hop, step.short) == (POINTS, POINTS, "pad")


def of_power() -> bytes:
    """The logarithm of a sound's power in eight bands: what is quiet counts as much as what is loud, and 8 bits hold one of them."""
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("Transpose", ["sound"], ["first"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["first", "w"], ["a"], kernel_shape=[16], strides=[8]), helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Add", ["f", "least"], ["above"]), helper.make_node("Log", ["above"], ["level"]),
    ]  # fmt: skip
    constants = {"w": rng.normal(0, 0.2, (8, 1, 16)).astype(np.float32), "least": np.array(1e-9, np.float32)}
    return onnx_file(nodes, [("sound", F, ["batch", POINTS, 1])], [("level", F, ["batch", 8])], **constants)


@pytest.mark.long
def test_what_a_logarithm_reads_stays_in_float_with_the_number_that_keeps_it_from_zero(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(of_power())
    rng = np.random.default_rng(6)
    np.save(tmp_path / "rows.npy", (rng.normal(0, 1, (64, POINTS, 1)) * 10 ** rng.uniform(-4, 0, (64, 1, 1))).astype(np.float32))
    found, _ = compressed(tmp_path / "net.onnx", tmp_path / "rows.npy", tmp_path / "small", "--measure", "signal")
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert set(files) == {"onnx-int8", "tflite-int8"} and min(file["accuracy"]["value"] for file in files.values()) >= 0.85
    session = onnxruntime.InferenceSession(tmp_path / "runs" / "small" / "onnx-int8.onnx")
    (silence,) = session.run(None, {session.get_inputs()[0].name: np.zeros((1, POINTS, 1), np.float32)})
    assert np.isfinite(silence).all() and silence.max() == pytest.approx(np.log(1e-9), abs=1e-3)


@pytest.mark.long
def test_files_that_keep_little_are_said_at_the_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    alike = (1 + rng.normal(0, 0.003, (16, 4))).astype(np.float32)  # scores that differ by less than a step of theirs
    nodes = [helper.make_node("MatMul", ["row", "w"], ["scores"])]
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, [("row", F, ["batch", 16])], [("scores", F, ["batch", 4])], w=alike))
    np.save(tmp_path / "rows.npy", rng.normal(0, 1, (80, 16)).astype(np.float32))
    found, said = compressed(tmp_path / "net.onnx", tmp_path / "rows.npy", tmp_path / "small", "--labels", "a,b,c,d")
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    worst = min(files, key=lambda name: files[name]["accuracy"]["value"])
    assert files[worst]["accuracy"]["value"] < 0.9
    assert f"please check: {worst} keeps {files[worst]['accuracy']['value']:.1%} by" in said and "--min-agreement 0.9 lets" in said


@pytest.mark.long
def test_an_original_that_is_undecided_about_the_pictures_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        picture = rng.integers(100, 140, (16, 16, 1)).repeat(3, 2)
        picture[0, 0, number % 2] += 2  # all that decides
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "pictures" / f"{number:02}.png")
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["scores"]),
    ]
    model = onnx_file(
        nodes, [("image", F, ["batch", 3, 16, 16])], [("scores", F, ["batch", 2])], w=np.eye(3, 2, dtype=np.float32) * 1000
    )
    (tmp_path / "net.onnx").write_bytes(model)
    found, said = compressed(
        tmp_path / "net.onnx", tmp_path / "pictures", tmp_path / "small", "--labels", "more,less", "--normalize", "unit"
    )
    moved = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["moved"]["value"]
    assert moved < 0.9 and f"the original itself keeps {moved:.1%} where each value" in said


def test_an_output_without_an_axis_for_its_value_is_taken(tmp_path: Path) -> None:
    """(batch,), as networks of one score write it: `max() arg is an empty sequence` was all that was said."""
    weights = {
        name: np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32) for name, shape in (("w", (16, 8)), ("v", (8, 1)))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]), helper.make_node("Squeeze", ["c", "last"], ["y"]),
    ]  # fmt: skip
    content = onnx_file(nodes, [("x", F, ["n", 16])], [("y", F, ["n"])], **weights, last=np.array([1], np.int64))
    (tmp_path / "net.onnx").write_bytes(content)
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).normal(0, 1, (40, 16)).astype(np.float32))
    words = (
        "compress",
        tmp_path / "net.onnx",
        "--calibrate",
        tmp_path / "rows.npy",
        "--normalize",
        "counts",
        "--out",
        tmp_path / "small",
    )
    assert "one value a sample without an axis" in sentence(edgeloop_here(*words, "--io", "original"), 2)
    done = edgeloop_here(*words, "--prepare-only")
    assert done.returncode == 0 and "int8 is judged by R²" in done.stderr, done.stderr
