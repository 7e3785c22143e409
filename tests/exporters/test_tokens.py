"""Models of texts in the exporters: one input in place of several, masks in float, tables in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from bundles import F, onnx_file
from edgeloop_contract.errors import ModelError
from edgeloop_exporters import quantization
from edgeloop_exporters.floating import floating_nodes
from edgeloop_exporters.graph import aten, trace
from edgeloop_exporters.model_files.reading import content_of, read
from edgeloop_exporters.onnx_import import read_onnx
from edgeloop_exporters.outliers import migrate_outliers
from edgeloop_exporters.simplification import simplify
from edgeloop_exporters.token_inputs import roles_of, smallest_table, with_one_input
from token_models import encoder

I64 = TensorProto.INT64


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("bert") / "net.onnx", 50)


def test_one_input_gives_the_answers_of_three(bert: Path, tmp_path: Path) -> None:
    model = read(bert)
    assert list(roles_of(model.inputs, "").values()) == ["ids", "mask", "types"]
    (tmp_path / "one.onnx").write_bytes(with_one_input(content_of(bert), model.inputs, 10, 7, str(bert)))
    ids = np.random.default_rng(0).integers(8, 50, (4, 10)).astype(np.int32)
    ids[1, 4:] = ids[2, 1:] = 7
    three, one = (onnxruntime.InferenceSession(path) for path in (bert, tmp_path / "one.onnx"))
    fed = {
        "input_ids": ids.astype(np.int64), "attention_mask": (ids != 7).astype(np.int64),
        "token_type_ids": np.zeros_like(ids, np.int64),
    }  # fmt: skip
    (wanted,), (found,) = three.run(None, fed), one.run(None, {"tokens": ids})
    assert np.abs(found - wanted).max() < 1e-5
    imported = read_onnx(tmp_path / "one.onnx")
    assert [(port.name, port.dtype, port.shape) for port in imported.inputs] == [("tokens", "int32", (10,))]
    with torch.no_grad():
        assert np.abs(imported.network(torch.from_numpy(ids)).numpy() - wanted).max() < 1e-5


def test_the_smallest_table_that_the_ids_look_up(bert: Path) -> None:
    found = smallest_table(with_one_input(content_of(bert), read(bert).inputs, 10, 0, ""), "")
    assert found is not None and found[1] == 50  # the tables of places (64) and of types (2) are not for ids


def test_a_graph_of_tokens_stays_in_32_bits_and_its_masks_in_float(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "one.onnx").write_bytes(with_one_input(content_of(bert), read(bert).inputs, 10, 0, str(bert)))
    network = read_onnx(tmp_path / "one.onnx").network
    ids = torch.randint(1, 50, (3, 10), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    ids[1, 5:] = 0
    module = trace(network, ids)
    simplify(module)
    with torch.no_grad():
        assert torch.allclose(module(ids), network(ids), atol=1e-6)
    values = [node.meta.get("val") for node in module.graph.nodes]
    assert not [v for v in values if isinstance(v, torch.Tensor) and v.dtype == torch.int64]
    assert sum(node.target is aten.embedding.default for node in module.graph.nodes) == 1  # of the words: others are constants
    floating = floating_nodes(module, (), False)
    softmaxes = [node for node in module.graph.nodes if node.target is aten.softmax.int]
    assert len(softmaxes) == 2 and all(node in floating and node.args[0] in floating for node in softmaxes)
    matmuls = [node for node in module.graph.nodes if node.target is aten.matmul.default]
    assert len(matmuls) == 4 and not floating & set(matmuls)


def test_outliers_of_a_stream_move_into_weights(bert: Path, tmp_path: Path) -> None:
    """The float graph answers as before, and each channel of what a layer adds to the stream has a range of its own."""
    (tmp_path / "one.onnx").write_bytes(with_one_input(content_of(bert), read(bert).inputs, 10, 0, str(bert)))
    network = read_onnx(tmp_path / "one.onnx").network
    down = next(m for m in network.modules() if isinstance(m, torch.nn.Linear) and m.in_features > m.out_features)
    with torch.no_grad():  # one channel a hundred times as large as others
        down.weight[5] *= 100
        down.bias[5] += 40
    ids = torch.randint(1, 50, (8, 10), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    graphs = [trace(network, ids) for _ in range(2)]
    for graph in graphs:
        simplify(graph)
    plain, moved = graphs
    places = migrate_outliers(moved, ids)
    with torch.no_grad():
        wanted, found = plain(ids), moved(ids)
    assert places and (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    errors = [error_of(graph, ids, wanted) for graph in graphs]
    assert errors[1] < errors[0] / 4, errors


def error_of(graph: torch.fx.GraphModule, ids: torch.Tensor, wanted: torch.Tensor) -> float:
    """The noise of the integer graph, relative to the answers' power."""
    quantization.insert(graph, quantization.plan(graph))
    quantization.set_mode(graph, "observe", "off")
    with torch.no_grad():
        graph(ids)
        quantization.choose_ranges(graph)
        quantization.set_mode(graph, "quantize", "quantize")
        quantization.settle(graph)
        return float(((graph(ids) - wanted) ** 2).sum() / (wanted**2).sum())


def counted(places: str) -> bytes:
    """mask[b, places] as exporters write it: of a flat mask at b × length + place, or by pairs; sums it over places."""
    c = {
        "zero": np.array(0), "one": np.array(1), "axes": np.array([1]), "last": np.array([-1]), "flat": np.array([-1]), "pad": np.array(0),
        "places": np.arange(6) if places == "flat" else np.array([0, 2, 4]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Equal", ["tokens", "pad"], ["is_pad"]), helper.make_node("Not", ["is_pad"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["mask"], to=F), helper.make_node("Shape", ["tokens"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0), helper.make_node("Gather", ["shape", "one"], ["length"], axis=0),
        helper.make_node("Range", ["zero", "batch", "one"], ["numbers"]), helper.make_node("Unsqueeze", ["numbers", "axes"], ["rows"]),
    ]  # fmt: skip
    if places == "flat":
        nodes += [
            helper.make_node("Mul", ["rows", "length"], ["starts"]), helper.make_node("Add", ["starts", "places"], ["index"]),
            helper.make_node("Reshape", ["mask", "flat"], ["all"]), helper.make_node("Gather", ["all", "index"], ["picked"], axis=0),
        ]  # fmt: skip
    else:
        nodes += [
            helper.make_node("Max", ["rows", "places"], ["grid"]), helper.make_node("Shape", ["grid"], ["sizes"]),
            helper.make_node("Expand", ["rows", "sizes"], ["first"]), helper.make_node("Expand", ["places", "sizes"], ["second"]),
            helper.make_node("Unsqueeze", ["first", "last"], ["a"]), helper.make_node("Unsqueeze", ["second", "last"], ["b"]),
            helper.make_node("Concat", ["a", "b"], ["index"], axis=-1), helper.make_node("GatherND", ["mask", "index"], ["picked"]),
        ]  # fmt: skip
    nodes.append(helper.make_node("Mul", ["picked", "picked"], ["out"]))
    constants = {name: value.astype(np.int32 if name == "pad" else np.int64) for name, value in c.items()}
    return onnx_file(nodes, [("tokens", TensorProto.INT32, ["n", 6])], [("out", F, ["n", None])], **constants)


@pytest.mark.parametrize("places", ["flat", "pairs"])
def test_masks_that_are_looked_up_by_the_samples_number(places: str, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(counted(places))
    found = read_onnx(tmp_path / "net.onnx")  # compared with ONNX Runtime at several batches
    ids = torch.tensor([[5, 0, 7, 0, 0, 2]] * 4, dtype=torch.int32)
    with torch.no_grad():
        assert found.network(ids)[3].tolist() == ([1, 0, 1, 0, 0, 1] if places == "flat" else [1, 1, 0])


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ([("input_ids", I64, ["n", "l"]), ("pixels", F, ["n", "l"])], "pixels float32 .* is none of token ids"),
        ([("input_ids", I64, ["n", "l"]), ("token_type_ids", I64, ["n"])], "token_type_ids int64 .* is none of"),
        ([("attention_mask", I64, ["n", "l"]), ("token_type_ids", I64, ["n", "l"])], "no input takes token ids"),
        ([("input_ids", I64, ["n", 12]), ("attention_mask", I64, ["n", 12])], "takes 12 tokens, and not 10; say --length 12"),
    ],
    ids=["floats", "rank", "no ids", "length"],
)
def test_other_inputs_are_refused(inputs: list, why: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", [name], [f"{name}_f"], to=F) for name, _, _ in inputs]
    nodes.append(helper.make_node("Identity", [f"{inputs[0][0]}_f"], ["out"]))
    (tmp_path / "net.onnx").write_bytes(onnx_file(nodes, inputs, [("out", F, None)]))
    model = read(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=why):
        with_one_input(content_of(tmp_path / "net.onnx"), model.inputs, 10, 0, "net.onnx")
