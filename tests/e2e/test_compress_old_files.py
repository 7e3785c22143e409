"""`edgeloop compress` takes files of operator sets before 7, in a newer one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

from bundles import F
from commands import edgeloop_here


def old_classifier() -> bytes:
    """As exporters wrote it in 2018: a fixed batch, constants that are inputs too, a bias that says its axis."""
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "s": (8,), "d": (8, 4), "e": (4,)}
    constants = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]), helper.make_node("Mul", ["c", "s"], ["m"], broadcast=1, axis=1),
        helper.make_node("Relu", ["m"], ["r"]), helper.make_node("GlobalAveragePool", ["r"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "d", "e"], ["g"], broadcast=1), helper.make_node("Softmax", ["g"], ["y"], axis=1),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("x", F, [1, 3, 16, 16])]
    inputs += [helper.make_tensor_value_info(name, F, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info("y", F, [1, 4])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)], ir_version=3).SerializeToString())


def test_an_old_file_becomes_a_project_with_a_newer_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(1)
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3)).astype(np.uint8)).save(tmp_path / "data" / f"{i}.png")
    (tmp_path / "net.onnx").write_bytes(old_classifier())
    words = (
        "compress",
        tmp_path / "net.onnx",
        "--calibrate",
        tmp_path / "data",
        "--out",
        tmp_path / "small",
        "--normalize",
        "unit",
    )
    done = edgeloop_here(*words, "--prepare-only")
    assert done.returncode == 0, done.stderr
    assert "opset 13" in done.stderr and onnx.load(tmp_path / "small" / "model.onnx").opset_import[0].version == 13
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == 6  # what was given stays as it is
