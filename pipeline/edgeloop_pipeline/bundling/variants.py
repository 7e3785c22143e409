"""Describes variants: how a device gives inputs to each model file and reads its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_contract.manifest import Precision, Quantization, Runtime, TensorSpec, Variant
from edgeloop_exporters.named_outputs import Output

if TYPE_CHECKING:
    from edgeloop_pipeline.data.types import PreparedSplits

VARIANTS = "variants.json"


def variant_of(
    runtime: Runtime, precision: Precision, file: str, splits: PreparedSplits, counts: tuple[float, int] | None,
    outputs: list[TensorSpec],
) -> Variant:  # fmt: skip
    """The variant of a file. `counts`: the input's scale and zero point if raw counts go in unchanged."""
    raw = TensorSpec(dtype=splits.dtype, shape=list(splits.shape))
    if precision == Precision.INT8 and counts:
        scale, zero_point = counts
        offset = 128 if runtime == "tflite" else 0
        raw = TensorSpec(
            dtype="int8" if offset else "uint8",
            shape=raw.shape,
            quantization=Quantization(scale=scale, zero_point=zero_point - offset),
        )
    name = f"{runtime}-{precision.value.replace('-', '')}"
    return Variant(name=name, runtime=runtime, precision=precision, file=file, inputs=[raw], outputs=outputs)


def named_outputs(variant: Variant) -> list[Output]:
    """Its outputs, where there are several; else none: the only one has no name."""
    return [Output(spec.name, tuple(spec.shape)) for spec in variant.outputs] if len(variant.outputs) > 1 else []


def read_variants(folder: Path) -> list[Variant]:
    return msgspec.json.decode((folder / VARIANTS).read_bytes(), type=list[Variant])
