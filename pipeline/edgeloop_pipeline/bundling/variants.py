"""Describes variants: how a device gives inputs to each model file and reads its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgeloop_contract.manifest import Precision, Quantization, Runtime, TensorSpec, Variant

if TYPE_CHECKING:
    from edgeloop_pipeline.data.types import PreparedSplits

VARIANTS = "variants.json"


def answer_shape(module: Any) -> list[int]:
    """The shape of one sample's scores."""
    return list(module.graph.output_node().all_input_nodes[0].meta["val"].shape[1:])


def variant_of(
    runtime: Runtime, precision: Precision, file: str, splits: PreparedSplits, counts: tuple[float, int] | None, answer: list[int],
    output: tuple[float, int] | None,
) -> Variant:  # fmt: skip
    """The variant of a file. `counts`: the input's scale and zero point if raw counts go in unchanged;
    `answer`: the scores' shape; `output`: their scale and uint8 zero point, if they are integers."""
    raw = TensorSpec(dtype=splits.dtype, shape=list(splits.shape))
    scores = TensorSpec(dtype="float32", shape=answer)
    if precision == Precision.INT8 and runtime == "tflite" and output:
        scale, zero_point = output
        scores = TensorSpec(dtype="int8", shape=scores.shape, quantization=Quantization(scale=scale, zero_point=zero_point - 128))
    if precision == Precision.INT8 and counts:
        scale, zero_point = counts
        offset = 128 if runtime == "tflite" else 0
        raw = TensorSpec(
            dtype="int8" if offset else "uint8",
            shape=raw.shape,
            quantization=Quantization(scale=scale, zero_point=zero_point - offset),
        )
    name = f"{runtime}-{precision.value.replace('-', '')}"
    return Variant(name=name, runtime=runtime, precision=precision, file=file, inputs=[raw], outputs=[scores])


def read_variants(folder: Path) -> list[Variant]:
    return msgspec.json.decode((folder / VARIANTS).read_bytes(), type=list[Variant])
