"""Where a network can be cut, what crosses there, and in which coding."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
from onnx import TensorProto, helper

from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.errors import DataError
from edgeloop_contract.manifest import Coding
from edgeloop_contract.splitting import from_file, from_nibbles, nibbles, pack
from edgeloop_exporters import cutting
from edgeloop_pipeline.offload import bottleneck
from edgeloop_pipeline.tasks import classification

Array = np.ndarray[Any, Any]

# ---------------------------------------------------------------- cut points


def graph(*nodes: onnx.NodeProto, inputs: tuple[str, ...] = ("x",), weights: dict[str, Array] | None = None) -> bytes:
    """An ONNX model on (batch, 4, 8, 8) inputs, whose output is called y."""
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 8, 8]) for name in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString())


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def branch(kind: str, inputs: str) -> onnx.GraphProto:
    """Of an If: reads what is around it."""
    return helper.make_graph([node(kind, inputs, "out")], kind, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)])


GRAPHS = {
    "a chain": (graph(node("Relu", "x", "a"), node("Sigmoid", "a", "b"), node("Neg", "b", "y")), ["a", "b"]),
    "a residual block": (
        graph(node("Relu", "x", "a"), node("Sigmoid", "a", "b"), node("Add", "a b", "c"), node("Neg", "c", "y")),
        ["a", "c"],
    ),
    "a concat of branches": (
        graph(
            node("Relu", "x", "a"),
            node("Sigmoid", "a", "b"),
            node("Tanh", "a", "c"),
            node("Concat", "b c", "d", axis=1),
            node("Neg", "d", "y"),
        ),
        ["a", "d"],
    ),
    "the input read twice": (graph(node("Relu", "x", "a"), node("Add", "x a", "b"), node("Neg", "b", "y")), ["b"]),
    "two inputs": (
        graph(node("Relu", "x", "a"), node("Sigmoid", "z", "b"), node("Add", "a b", "c"), node("Neg", "c", "y"), inputs=("x", "z")),
        ["c"],
    ),
    "a constant branch": (
        graph(
            node("Relu", "w", "k"),
            node("Relu", "x", "a"),
            node("Add", "a k", "b"),
            node("Neg", "b", "y"),
            weights={"w": np.ones((1, 4, 8, 8), np.float32)},
        ),
        ["a", "b"],
    ),
    "two outputs of one split": (
        graph(
            helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
            node("Concat", "b a", "c", axis=1),
            node("Neg", "c", "y"),
        ),
        ["c"],
    ),
    "quantized pairs": (
        graph(
            node("QuantizeLinear", "x s z", "q"),
            node("DequantizeLinear", "q s z", "d"),
            node("Relu", "d", "r"),
            node("QuantizeLinear", "r s z", "p"),
            node("DequantizeLinear", "p s z", "y"),
            weights={"s": np.float32(0.02), "z": np.uint8(128)},
        ),
        ["q", "p"],
    ),
    "the batch merged with an axis, and taken apart again": (
        graph(
            node("Relu", "x", "a"),
            node("Reshape", "a merged", "b"),
            node("Sigmoid", "b", "c"),
            node("Reshape", "c apart", "d"),
            node("Neg", "d", "y"),
            weights={"merged": np.array([-1, 8, 8]), "apart": np.array([-1, 4, 8, 8])},
        ),
        ["a", "d"],
    ),
    "another axis moved to the front": (
        graph(
            node("Relu", "x", "a"),
            node("Transpose", "a", "b", perm=[1, 0, 2, 3]),
            node("Sigmoid", "b", "c"),
            node("Transpose", "c", "d", perm=[1, 0, 2, 3]),
            node("Neg", "d", "y"),
        ),
        ["a", "d"],
    ),
    "a branch that reads a tensor of outside": (
        graph(
            node("Relu", "x", "a"),
            node("ReduceMax", "a", "m", keepdims=0),
            node("Greater", "m zero", "c"),
            helper.make_node("If", ["c"], ["d"], then_branch=branch("Add", "x a"), else_branch=branch("Neg", "a")),
            node("Neg", "d", "y"),
            weights={"zero": np.float32(0)},
        ),
        ["d"],
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_cut_is_where_every_path_goes_through_and_the_parts_are_the_whole(name: str) -> None:
    model, wanted = GRAPHS[name]
    found = cutting.boundaries(model)
    assert [b.tensor for b in found] == wanted
    given = {
        i.name: np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float32)
        for i in onnx.load_from_string(model).graph.input
    }
    whole = session_of(model).run(None, given)[0]
    for boundary in found:
        crossing = session_of(cutting.head(model, boundary.tensor)).run(None, given)[0]
        assert crossing.shape[1:] == tuple(boundary.shape)
        again = session_of(cutting.tail(model, boundary.tensor)).run(None, {boundary.tensor: crossing})[0]
        assert (again == whole).all()


def test_a_fixed_batch_is_not_cut() -> None:
    model = onnx.load_from_string(GRAPHS["a chain"][0])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert cutting.boundaries(model.SerializeToString()) == []


def test_four_bits_are_within_half_a_step_and_packed_by_two() -> None:
    values = np.arange(256, dtype=np.uint8)[None].repeat(2, 0)[:, :255]
    packed = np.concatenate([nibbles(values[i : i + 1]) for i in range(2)])
    assert packed.shape == (2, 128)
    back = from_nibbles(packed, (255,))
    assert np.abs(back.astype(int) - values.astype(int)).max() <= 15
    assert (np.abs(back.astype(int) - values.astype(int)) <= 8).mean() > 0.96
    assert pack(values[:1], "4bit") != pack(values[:1], "raw")


@pytest.mark.parametrize(
    ("coding", "values"),
    [
        ("webp", np.random.default_rng(0).integers(0, 256, (1, 9, 16, 3)).astype(np.uint8)),
        ("webp", np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)),
        ("flac", np.arange(-32768, 32768, 13, dtype=np.int16)[None]),
        ("flac", np.arange(-32768, 32768, 13, dtype=np.int16)[None, :5000].reshape(1, -1, 2)),
    ],
)
def test_pictures_and_sound_cross_exactly(coding: Coding, values: Array) -> None:
    packed = pack(values, coding)
    found = from_file(packed, coding, values.shape[1:])
    assert found.dtype == values.dtype
    assert (found == values).all()
    for other in (packed[: len(packed) // 3], b"", pack(values, "deflate")):
        with pytest.raises(DataError):
            from_file(other, coding, values.shape[1:])
    with pytest.raises(DataError):
        from_file(packed, coding, (values.shape[1] + 1, *values.shape[2:]))
    stranger = io.BytesIO()
    soundfile.write(stranger, np.zeros(8, np.int16), 8000, format="WAV")
    with pytest.raises(DataError, match="not a FLAC file"):
        from_file(stranger.getvalue(), "flac", (8,))
    wave = pack(np.zeros((1, 8), np.int16), "flac")
    with pytest.raises(DataError):
        from_file(wave, "webp", (2, 2, 1))


def test_a_bottleneck_learns_what_the_tail_looks_at() -> None:
    """The loudest channel is noise that nobody reads: principal components would keep it, what was learned does not."""
    from types import SimpleNamespace

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    crossing = rng.integers(118, 138, (256, 4, 3, 3)).astype(np.uint8)
    crossing[:, 0] = rng.integers(0, 256, (256, 3, 3))
    crossing[:, 2] += (40 * rng.integers(0, 2, 256)[:, None, None]).astype(np.uint8)

    class Tail(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = x[:, 2].flatten(1).mean(1, keepdim=True) - 0.2
            return torch.cat([found, -found], 1) * 30

    point: Any = SimpleNamespace(scale=0.01, zero_point=128)
    tail = Tail()
    whole = tail((torch.from_numpy(crossing).float() - 128) * 0.01)
    imitation = classification.Classification(SimpleNamespace(labels=["a", "b"])).imitation  # type: ignore[arg-type]
    for steps in (0, 50):  # as it begins, and as it goes on
        waist = bottleneck.learn(tail, point, crossing, whole, 1, steps, imitation)
        real = (crossing.astype(np.float32) - 128) * 0.01
        few = np.einsum("oc,nchw->nohw", waist.encode, real) + waist.encode_bias.reshape(-1, 1, 1)
        few = (np.clip(np.rint(few / waist.scale) + waist.zero_point, 0, 255) - waist.zero_point) * waist.scale
        again = np.einsum("co,nohw->nchw", waist.decode, few) + waist.decode_bias.reshape(-1, 1, 1)
        same = tail(torch.from_numpy(again).float()).argmax(1) == whole.argmax(1)
        assert same.float().mean() > 0.95
