"""Files of old operator sets, what is refused, what pruning finds, and what the page of operators says of networks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.onnx_import import read_onnx
from edgeloop_exporters.onnx_import.old_sets import in_newer_set
from edgeloop_pipeline.compression.pruning import Channels, remove_channels
from matrix import cases
from onnx_parts import I64, LOOPED, RNG, F, ints, model, node, picture, recurrent, weights, words
from operator_parts import PARTS
from operator_paths import tried

ROOT = Path(__file__).resolve().parents[2]


def old(*nodes: onnx.NodeProto, opset: int = 6, **constants: np.ndarray) -> onnx.ModelProto:
    """With a batch of two: the converter wants fixed sizes."""
    made = model(list(nodes), [("x", F, [2, 4, 9, 10])], "y", opset, **constants)
    made.ir_version = 3
    made.graph.input.extend(helper.make_tensor_value_info(name, F, values.shape) for name, values in constants.items())
    return made


OLD = {
    "broadcast by an axis": old(node("Add", "x b", "y", broadcast=1, axis=1), b=weights(4)),
    "a slope for each channel": old(node("PRelu", "x s", "y"), s=weights(4)),
    "norm": old(
        node("BatchNormalization", "x s o m v", "y", is_test=1), s=weights(4), o=weights(4), m=weights(4), v=weights(4) ** 2 + 0.5
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_files_of_old_operator_sets_come_in_a_newer_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(OLD[name].SerializeToString())
    path = in_newer_set(tmp_path / "net.onnx", tmp_path / "newer.onnx")
    assert path == tmp_path / "newer.onnx" and read_onnx(path).opset == 13
    x = RNG.normal(size=(2, 4, 9, 10)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(newer_by_hand(name), verbose=0).run(None, {"x": x})
    assert np.allclose(read_onnx(path).network(torch.from_numpy(x)).detach().numpy(), wanted, atol=1e-4)


def newer_by_hand(name: str) -> onnx.ModelProto:
    """What the old file means, in operators of today."""
    was = {tensor.name: numpy_helper.to_array(tensor) for tensor in OLD[name].graph.initializer}
    if name == "norm":
        return picture(node("BatchNormalization", "x s o m v", "y"), **was)
    kind, (constant, values) = ("Add", *was.items()) if name == "broadcast by an axis" else ("PRelu", *was.items())
    return picture(node(kind, f"x {constant}", "y"), **{constant: values[:, None, None]})


def test_an_old_file_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    made = old(node("Pad", "x", "y", paddings=[0, 0, 1, 2, 0, 0, 0, 1]), opset=1)
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="opset 1 cannot be converted"):
        in_newer_set(tmp_path / "net.onnx", tmp_path / "newer.onnx")


def test_files_of_newer_operator_sets_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(words(node("Relu", "x", "y")).SerializeToString())
    assert in_newer_set(tmp_path / "net.onnx", tmp_path / "newer.onnx") == tmp_path / "net.onnx"
    (tmp_path / "none.onnx").write_bytes(b"no model")
    assert in_newer_set(tmp_path / "none.onnx", tmp_path / "newer.onnx") == tmp_path / "none.onnx"  # reading it says so


REFUSED = {
    "a loop by data": (words(node("ReduceSum", "x along", "s", keepdims=0), node("Cast", "s", "count", to=I64), node("Loop", "count _ x", "y", body=LOOPED), along=ints(1, 2)), "steps the data decide"),
    "another domain": (words(node("Odd", "x", "y", domain="com.microsoft")), "no rule"),
    "too many steps": (words(node("Loop", "count _ x", "y", body=LOOPED), count=ints(5000)), "more than 1000 steps"),
    "a sequence as an answer": (picture(node("SplitToSequence", "x", "y", axis=1)), "output y is a sequence"),
    "activations of no name": (recurrent("RNN", activations=["Swirl"]), "activation Swirl"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, said = REFUSED[name]
    (tmp_path / "net.onnx").write_bytes(content.SerializeToString())
    with pytest.raises(ModelError, match=said) as caught:
        read_onnx(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value) and "edgeloop pack" in str(caught.value)


def test_scales_of_channels_train_and_are_pruned_with_them_and_other_constants_stay(tmp_path: Path) -> None:
    made = picture(
        node("Mul", "x before", "a"), node("Conv", "a w", "c", name="first"), node("Mul", "c scale", "s"), node("Add", "s map", "t"),
        node("Conv", "t v", "y", name="second"), before=weights(4, 1, 1), w=weights(8, 4, 1, 1), scale=weights(8, 1, 1), map=weights(9, 10), v=weights(5, 8, 1, 1),
    )  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(made.SerializeToString())
    network = read_onnx(tmp_path / "net.onnx").network
    assert [tuple(p.shape) for n, p in network.named_parameters() if "." not in n] == [(8, 1, 1)]
    assert sorted(tuple(b.shape) for b in network.buffers()) == [(4, 1, 1), (9, 10)]
    remove_channels(network, torch.randn(2, 4, 9, 10), Channels(keep=0.5, round_to=1))
    assert network.get_submodule("first").out_channels == 4
    assert [tuple(p.shape) for n, p in network.named_parameters() if "." not in n] == [(4, 1, 1)]


WAYS = dict(
    re.findall(r"^\| (\w+) \| \d+ \| \d+ \| (\S+ \| \S+ \| \S+) \|", (ROOT / "docs" / "operators.md").read_text("utf-8"), re.M)
)


def test_every_operator_that_was_tried_is_on_the_page() -> None:
    assert all(WAYS.get(name, "– | – | –") != "– | – | –" for name in PARTS)


@pytest.mark.parametrize("name", cases(PARTS, ("Abs", "Slice")))
def test_the_page_says_what_networks_with_an_operator_become(name: str) -> None:
    assert tried(name).cells == WAYS[name]


def test_a_network_that_reads_where_the_data_say_is_not_pruned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.2, (outputs, 6, 3, 3)).astype(np.float32) for name, outputs in (("wo", 18), ("w", 8))}
    nodes = [
        helper.make_node("Conv", ["x", "wo"], ["o"], pads=[1] * 4), helper.make_node("DeformConv", ["x", "w", "o"], ["y"], pads=[1] * 4)
    ]  # fmt: skip
    ports = [helper.make_tensor_value_info(n, F, ["b", c, 8, 8]) for n, c in (("x", 6), ("y", 8))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [onnx.numpy_helper.from_array(v, n) for n, v in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), tmp_path / "net.onnx")
    found = read_onnx(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="it has a DeformConv; set prune: off"):
        remove_channels(found.network, torch.zeros(1, 6, 8, 8), Channels(0.5, 4))
