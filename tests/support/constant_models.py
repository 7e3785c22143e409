"""ONNX files that answer the same, whatever they see: other people's layouts by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bundles import onnx_file

__all__ = ["answering"]

F = TensorProto.FLOAT


def answering(path: Path, outputs: Mapping[str, np.ndarray], size: tuple[int, int], said: Mapping[str, str] | None = None) -> Path:
    """A file of pictures (1, 3, *size) with these outputs, batch included; whole numbers as int64. `said`: its metadata."""
    whole = {name for name, values in outputs.items() if values.dtype.kind in "iu"}
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0), helper.make_node("Mul", ["m", "none"], ["n"]),
        *(helper.make_node("Reshape", ["n", f"{name} shape"], [f"{name} none"]) for name in outputs),
        *(helper.make_node("Add", [f"{name} values", f"{name} none"], [f"{name} sum" if name in whole else name]) for name in outputs),
        *(helper.make_node("Cast", [f"{name} sum"], [name], to=TensorProto.INT64) for name in outputs if name in whole),
    ]  # fmt: skip
    content = onnx_file(
        nodes, [("images", F, [1, 3, *size])],
        [(name, TensorProto.INT64 if name in whole else F, list(values.shape)) for name, values in outputs.items()],
        none=np.zeros(1, np.float32), w=np.ones((1, 3, 1, 1), np.float32),
        **{f"{name} values": values.astype(np.float32) for name, values in outputs.items()},
        **{f"{name} shape": np.array([-1, *[1] * (values.ndim - 1)]) for name, values in outputs.items()},
    )  # fmt: skip
    made = onnx.load_from_string(content)
    helper.set_model_props(made, dict(said or {}))
    path.write_bytes(made.SerializeToString())
    return path
