"""The outputs of written files as a manifest names them, and the scores that a file answers with."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from edgeloop_agent.runtimes.named import NamedModel
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import INPUT, Quantization, Runtime, TensorSpec, Variant
from edgeloop_exporters.named_outputs import joined
from edgeloop_exporters.outputs import outputs_of
from edgeloop_exporters.quantization import output_qparams

__all__ = ["file_scores", "output_specs"]


def output_specs(module: fx.GraphModule, runtime: Runtime, quantized: bool) -> list[TensorSpec]:
    """Of the file that is written of this graph. An int8 TFLite file gives int8 where the graph rounds its scores."""
    outputs = outputs_of(module)
    scales = output_qparams(module) if quantized and runtime == "tflite" else [None] * len(outputs)
    specs = []
    for output, scale in zip(outputs, scales, strict=True):
        quantization = Quantization(scale=scale[0], zero_point=scale[1] - 128) if scale else None
        specs.append(
            TensorSpec(
                dtype="int8" if scale else "float32", shape=list(output.shape), quantization=quantization,
                name=output.name, tensor=output.name,
            )
        )  # fmt: skip
    return specs


def file_scores(runtime: Any, variant: Variant, samples: Array) -> Array:
    """Raw samples (N, *sample) to float32 scores (N, …); those of several outputs joined, in the order of the manifest."""
    if not isinstance(runtime, NamedModel) or len(variant.outputs) == 1:
        return np.asarray(runtime.run(samples))
    size = len(samples) if variant.runtime == "onnx" else 1
    rows = [runtime.tensors({INPUT: samples[i : i + size]}, {}) for i in range(0, len(samples), size)]
    return joined([np.concatenate([row[spec.name] for row in rows]) for spec in variant.outputs])
