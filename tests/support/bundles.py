"""Bundles of models that a test makes itself: ONNX files of any inputs, outputs and state."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeloop_contract import archive
from edgeloop_contract.manifest import (
    Canary,
    Classification,
    GoldenTensor,
    Input,
    Manifest,
    Precision,
    State,
    Task,
    Tensors,
    TensorSpec,
    Variant,
)

Tensor = tuple[str, int, list[Any]]  # name, ONNX type, shape


def onnx_file(nodes: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor], **constants: np.ndarray) -> bytes:
    """A small ONNX file."""
    given, made = ([helper.make_tensor_value_info(*tensor) for tensor in tensors] for tensors in (inputs, outputs))
    initializers = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(list(nodes), "g", given, made, initializers)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def write(
    path: Path, model: bytes, inputs: Sequence[Input], given: Sequence[TensorSpec], made: Sequence[TensorSpec],
    states: Sequence[State] = (), task: Task | None = None, golden: Mapping[str, np.ndarray] | None = None,
    samples: Mapping[str, np.ndarray] | None = None, name: str = "named",
) -> Path:  # fmt: skip
    """A bundle of one ONNX variant; `samples` by input and `golden` by output make its canary."""
    files = {"models/a.onnx": model}
    canary = None
    if samples is not None and golden is not None:
        files |= {f"canary/{n}.npy": npy(v) for n, v in samples.items()}
        files |= {f"canary/out-{n}.npy": npy(v.astype(np.float32)) for n, v in golden.items()}
        canary = Canary(
            inputs={n: f"canary/{n}.npy" for n in samples},
            golden={n: GoldenTensor(file=f"canary/out-{n}.npy", step=1e-4, max_steps=10) for n in golden},
        )
    variant = Variant(
        name="onnx-float32", runtime="onnx", precision=Precision.FLOAT32, file="models/a.onnx", inputs=list(given),
        outputs=list(made), states=list(states),
    )  # fmt: skip
    manifest = Manifest(
        schema=2, name=name, version=1, task=task or Tensors(), inputs=list(inputs), variants=[variant],
        files=archive.describe(files), canary=canary,
    )  # fmt: skip
    archive.write(path, manifest, files)
    return path


F = TensorProto.FLOAT


def accumulator(path: Path, reset: str = "recording") -> Path:
    """Adds all windows of a recording: y = x + h, and h is fed back. One window is two values."""
    model = onnx_file(
        [helper.make_node("Add", ["x", "h"], ["y"]), helper.make_node("Identity", ["y"], ["hn"])],
        [("x", F, [1, 2]), ("h", F, [1, 2])], [("y", F, [1, 2]), ("hn", F, [1, 2])],
    )  # fmt: skip
    from edgeloop_contract.preprocessing import Window

    return write(
        path, model, [Input(name="input", sample=TensorSpec(dtype="float32", shape=[1, 2]), preprocessing=[Window(length=1, hop=1)])],
        [TensorSpec(dtype="float32", shape=[2], tensor="x", batch="one")],
        [TensorSpec(dtype="float32", shape=[2], name="sum", tensor="y", batch="one")],
        [State(input="h", output="hn", dtype="float32", shape=[1, 2], reset=reset)],  # type: ignore[arg-type]
    )  # fmt: skip


def two_inputs(path: Path) -> Path:
    """scores = softmax(motion · 2 + sound), with a canary; motion has two axes, sound two values."""
    model = onnx_file(
        [
            helper.make_node("Mul", ["motion", "two"], ["m"]), helper.make_node("Add", ["m", "sound"], ["s"]),
            helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        ],
        [("motion", F, ["n", 2]), ("sound", F, ["n", 2])], [("s", F, ["n", 2]), ("p", F, ["n", 2])],
        two=np.array([2.0], np.float32),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(size=(4, 2)).astype(np.float32) for name in ("motion", "sound")}
    scores = samples["motion"] * 2 + samples["sound"]
    exp = np.exp(scores - scores.max(1, keepdims=True))
    spec = {name: TensorSpec(dtype="float32", shape=[2], name=name, tensor=name, of=name) for name in samples}
    return write(
        path, model, [Input(name=name, sample=TensorSpec(dtype="float32", shape=[2])) for name in samples], list(spec.values()),
        [TensorSpec(dtype="float32", shape=[2], name=n, tensor=t) for n, t in (("sums", "s"), ("probabilities", "p"))],
        task=Classification(labels=["no", "yes"], scores="probabilities", output="probabilities"), samples=samples,
        golden={"probabilities": exp / exp.sum(1, keepdims=True), "sums": scores},
    )  # fmt: skip
