"""Parts of models with several inputs, without a run: states that are turned, inputs and outputs of the original, samples as one array."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from test_compress_inputs import HIDDEN, WIDTH, ports, recording, recurrent, three_inputs

from edgeloop_contract.errors import DataError, ModelError
from edgeloop_exporters.constant_inputs import with_constants
from edgeloop_exporters.drop_in_ports import Port, given_to, with_ports
from edgeloop_exporters.named_inputs import NamedInput, put_together, samples_of, take_apart
from edgeloop_exporters.state_axes import with_batch_first


def test_a_state_whose_batch_is_second_is_turned_in_branches_too() -> None:
    content = with_batch_first(recurrent(branch=True), {"h": "hn", "c": "cn"}, "net.onnx")
    assert content is not None
    x = np.random.default_rng(0).normal(size=(2, WIDTH)).astype(np.float32)
    state = np.random.default_rng(1).normal(size=(2, 1, HIDDEN)).astype(np.float32)
    turned = onnxruntime.InferenceSession(content).run(None, {"frame": x, "h": state, "c": state})
    second = state.transpose(1, 0, 2)
    plain = onnxruntime.InferenceSession(recurrent(branch=True)).run(None, {"frame": x, "h": second, "c": second})
    assert np.allclose(turned[0], plain[0], atol=1e-6) and np.allclose(turned[1], plain[1].transpose(1, 0, 2), atol=1e-6)
    assert with_batch_first(three_inputs(), {"meta": "logits"}, "net.onnx") is None


def test_types_axes_and_inputs_that_are_not_read_are_the_originals() -> None:
    """Of a file without the constant: doubles and halves are cast, states turned, and the constant's input stands there unread."""
    ours = with_constants(three_inputs(), {"place": [3]}, "net.onnx")
    inputs = [Port("place", "int64", (0, 1)), Port("image", "float16"), Port("meta", "float64")]
    placed = onnxruntime.InferenceSession(with_ports(ours, inputs, [Port("logits", "float16")], "Softmax"))
    assert [(port[0], port[1]) for port in ports(placed)] == [
        ("place", "tensor(int64)"), ("image", "tensor(float16)"), ("meta", "tensor(double)"), ("logits", "tensor(float16)"),
    ]  # fmt: skip
    parts = {name: values[None] for name, values in recording(np.random.default_rng(4)).items() if name != "place"}
    given = given_to(inputs, parts)
    assert given["place"].shape == (1, 1) and given["image"].dtype == np.float16
    (found,) = placed.run(None, given)
    (wanted,) = onnxruntime.InferenceSession(ours).run(None, parts)
    assert found.dtype == np.float16 and np.allclose(found, np.exp(wanted) / np.exp(wanted).sum(), atol=5e-3)
    turned = with_batch_first(recurrent(), {"h": "hn", "c": "cn"}, "net.onnx") or b""
    states, answers = (
        [Port(name, "float32", (1, 0, HIDDEN), turned=True) for name in names] for names in (("h", "c"), ("hn", "cn"))
    )
    back = with_ports(turned, [Port("frame", "float32"), *states], [Port("speech", "float32"), *answers])
    state = np.random.default_rng(1).normal(size=(1, 3, HIDDEN)).astype(np.float32)
    fed = {"frame": np.ones((3, WIDTH), np.float32), "h": state, "c": state}
    for one, other in zip(*(onnxruntime.InferenceSession(file).run(None, fed) for file in (back, recurrent())), strict=True):
        assert one.shape == other.shape and np.allclose(one, other, atol=1e-6)


def called(content: bytes, names: dict[str, str]) -> bytes:
    """The same file with other names for some of its tensors."""
    model = onnx.load_from_string(content)
    for node in model.graph.node:
        node.input[:], node.output[:] = ([names.get(name, name) for name in part] for part in (node.input, node.output))
    return model.SerializeToString()


def test_what_is_added_takes_no_name_that_the_file_has() -> None:
    given = {name: values[None] for name, values in recording(np.random.default_rng(4)).items()} | {"place": np.array([[3]])}
    (wanted,) = onnxruntime.InferenceSession(three_inputs()).run(None, given)
    taken = called(three_inputs(), {"c": "place_once", "r": "place_sizes", "g": "place_inner"})
    del given["place"]
    (answer,) = onnxruntime.InferenceSession(with_constants(taken, {"place": [3]}, "net.onnx")).run(None, given)
    assert np.array_equal(answer, wanted)
    frame = {
        "frame": np.ones((1, WIDTH), np.float32),
        "h": np.ones((1, 1, HIDDEN), np.float32),
        "c": np.ones((1, 1, HIDDEN), np.float32),
    }
    (wanted, *_) = onnxruntime.InferenceSession(recurrent()).run(None, frame)
    turned = with_batch_first(
        called(recurrent(), {"x": "h_layers_first", "y": "hn_layers_first"}), {"h": "hn", "c": "cn"}, "net.onnx"
    )
    (answer, *_) = onnxruntime.InferenceSession(turned).run(None, frame)
    assert np.allclose(answer, wanted, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_inputs_come_back_as_they_went_in(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = ["float32", "int64", "int32", "uint8", "bool"]
    inputs, given = [], {}
    for number in range(int(rng.integers(1, 5))):
        shape = tuple(int(n) for n in rng.integers(1, 5, int(rng.integers(1, 4))))
        entry = NamedInput(f"x{number}", shape, str(rng.choice(kinds)), first=bool(rng.integers(2)) and len(shape) > 1)
        values = (
            rng.normal(size=(3, *entry.sample_shape)) if entry.dtype == "float32" else rng.integers(0, 2, (3, *entry.sample_shape))
        )
        inputs.append(entry)
        given[entry.name] = values.astype(entry.dtype)
    back = samples_of(put_together(given, inputs), inputs)
    assert all(np.array_equal(back[name], values) and back[name].shape == values.shape for name, values in given.items())


def test_another_total_and_numbers_that_no_float_holds_are_refused() -> None:
    entry = NamedInput("n", (2,), "int64")
    with pytest.raises(ModelError, match="has 3 values; the network's inputs have 2"):
        take_apart(np.zeros((1, 3, 1)), [entry])
    with pytest.raises(DataError, match="beyond 16777216"):
        put_together({"n": np.array([[1, (1 << 24) + 1]])}, [entry])
