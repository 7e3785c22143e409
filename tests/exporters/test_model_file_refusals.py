"""Model files that are no whole models: weights beside the file, what is no model, spoiled files."""

from __future__ import annotations

import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgeloop_contract.errors import DataError, EdgeloopError, ModelError
from edgeloop_exporters.model_files.reading import content_of, read
from model_parts import DENSE, QUANTIZED, RNG, D, inside_if, node, onnx_file, saved, scored, tflite_file, value

# ---------------------------------------------------------------- weights beside the file


def beside(folder: Path, location: str = "w.bin", **places: str) -> Path:
    model = scored(node("MatMul", "x w", "y"))
    (weight,) = model.graph.initializer
    content = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "length": str(len(content)), **places}.items():
        weight.external_data.add(key=key, value=text)
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(content)
    return saved(model, folder)


def test_weights_beside_the_file_are_found_and_can_be_put_inside(tmp_path: Path) -> None:
    path = beside(tmp_path / "m")
    assert read(path).external == (str((tmp_path / "m" / "w.bin").resolve()),)
    x = RNG.normal(size=(2, 4)).astype(np.float32)
    whole = onnxruntime.InferenceSession(content_of(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert (whole == onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]).all()
    plain = saved(scored(node("MatMul", "x w", "y")), tmp_path)
    assert content_of(plain) == plain.read_bytes() and read(plain).external == ()


def test_weights_elsewhere_missing_or_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(80))
    outside = [
        beside(tmp_path / "up", "../secret.bin"), beside(tmp_path / "root", str(tmp_path / "secret.bin")),
        beside(tmp_path / "none", ""), beside(tmp_path / "zero", "a\0b"), beside(tmp_path / "link", "link.bin"),
    ]  # fmt: skip
    (tmp_path / "link" / "link.bin").symlink_to(tmp_path / "secret.bin")
    for path in outside:
        for door in (read, content_of):
            with pytest.raises(ModelError, match="from outside its folder"):
                door(path)
    with pytest.raises(DataError, match=r"gone\.bin beside it, and that file is missing"):
        read(beside(tmp_path / "gone", "gone.bin"))
    with pytest.raises(DataError, match="shorter than"):
        read(beside(tmp_path / "huge", length=str(3 << 30)))
    with pytest.raises(ModelError, match="no number"):
        read(beside(tmp_path / "word", offset="ten"))


# ---------------------------------------------------------------- what is no model

SOUND = scored(node("MatMul", "x w", "y")).SerializeToString()
BAD: dict[str, tuple[str, bytes, type[EdgeloopError], str]] = {
    "nothing": ("m.onnx", b"", DataError, "is empty"),
    "words": ("m.onnx", b"not a model at all", ModelError, "not a"),
    "cut off": ("m.onnx", SOUND[:-20], ModelError, "not a whole ONNX file"),
    "a pickle": ("m.onnx", pickle.dumps(os.getcwd, protocol=4), ModelError, "is a pickle"),
    "a PyTorch file": ("m.pt", b"PK\x03\x04" + bytes(50), ModelError, "zip file"),
    "a pointer": ("m.onnx", b"version https://git-lfs", ModelError, "Git LFS pointer"),
    "another name": ("m.bin", SOUND, ModelError, r"reads \.onnx and \.tflite"),
    "ORT's own": ("m.ort", bytes(64), ModelError, r"give the \.onnx"),
    "old": ("m.onnx", scored(node("MatMul", "x w", "y"), opset=6).SerializeToString(), ModelError, "opset 6; from 7 on"),
    "no outputs": ("m.onnx", onnx_file([DENSE], [value("x", [1])], []).SerializeToString(), ModelError, "not an ONNX file"),
    "no inputs": ("m.onnx", onnx_file([DENSE], [], [value("s", [1])], {"w": D}).SerializeToString(), ModelError, "no inputs"),
    "a name that rings": (
        "m.onnx", onnx_file([node("Relu", "a\x07", "y")], [value("a\x07", [1])], [value("y", [1])]).SerializeToString(),
        ModelError, "control characters",
    ),
    "words as TFLite": ("m.tflite", b"not a model at all", ModelError, "not a TFLite file"),
    "TFLite cut off": ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(40), ModelError, "damaged or cut off|graphs"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_model_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    name, content, kind, words = BAD[what]
    with pytest.raises(kind, match=words) as refused:
        read(saved(content, tmp_path, name))
    assert "\n" not in str(refused.value) and type(refused.value) is kind


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(2**31)  # a hole: no bytes on disk
    with pytest.raises(ModelError, match="at most 2 GB"):
        read(large)


def test_graphs_that_multiply_are_read_in_bounded_time(tmp_path: Path) -> None:
    """Each level reads the one below 40 times over: 40 to the 30th ways from the output to the input."""
    nodes = [node("Identity", "x", "t0")]
    for level in range(30):
        copies = [f"c{level}_{i}" for i in range(40)]
        nodes += [node("Identity", f"t{level}", copy) for copy in copies]
        nodes.append(node("Concat", " ".join(copies), f"t{level + 1}", axis=0))
    inputs = [value(name, ["n", 4]) for name in ("x", *(f"s{i}" for i in range(50)))]
    model = onnx_file([*nodes, node("Identity", "t30", "y")], inputs, [value("y", ["n", 4])])
    deep = onnx.helper.make_graph([node("Identity", "x", "z")], "deep", [], [value("z", None)])
    for i in range(20):  # deeper than branches are followed, and than protobuf reads
        deep = onnx.helper.make_graph(
            [node("If", "b", f"z{i}", then_branch=deep, else_branch=deep)]
            if i < 8
            else [node("If", "b", f"z{i}", then_branch=deep)],
            "deep",
            [],
            [value(f"z{i}", None)],
        )
    model.graph.node.extend(deep.node)
    started = time.perf_counter()
    assert read(saved(model, tmp_path)).outputs[0].scores is None
    assert time.perf_counter() - started < 5


def test_spoiled_files_raise_our_errors_alone(tmp_path: Path) -> None:
    quantized = tflite_file(QUANTIZED, [("CONV_2D", "x w b", "c"), ("SOFTMAX", "c", "p"), ("DEQUANTIZE", "p", "y")], "x", "y")
    bases = {"m.tflite": quantized, "m.onnx": inside_if().SerializeToString()}
    chance, refused = random.Random(0), 0
    for i in range(600):
        name, content = list(bases.items())[i % 2]
        spoiled = bytearray(content)
        for _ in range(chance.randrange(1, 12)):
            place = chance.randrange(len(spoiled) - 4)
            spoiled[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", bytes(4), b"\xff\xff\xff\x7f", chance.randbytes(4)])
        path = saved(bytes(spoiled[: chance.choice([len(spoiled), chance.randrange(1, len(spoiled))])]), tmp_path, name)
        try:
            read(path)
            content_of(path)
        except EdgeloopError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200
