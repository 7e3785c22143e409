"""Makes the parts of a bundle that several stages write: arrays, references, provenance."""

from __future__ import annotations

import io
from typing import Any

import msgspec


def npy_of(values: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def inputs_of(project: Any) -> Any:
    """The inputs of this project's bundles: the prepared sample of each, and the steps that make it."""
    from edgeloop_contract.manifest import INPUT, Input, TensorSpec

    splits = project.splits
    if splits.inputs:
        given = [entry for entry in project.recipe.head.imported.inputs if not entry.output]
        return [
            Input(
                name=INPUT if len(given) == 1 else entry.name, preprocessing=entry.preprocessing,
                sample=TensorSpec(dtype=entry.named.door, shape=list(entry.named.sample_shape)),
            )
            for entry in given
        ]  # fmt: skip
    sample = TensorSpec(dtype=splits.dtype, shape=list(splits.shape))
    return [Input(name=INPUT, sample=sample, preprocessing=project.recipe.head.preprocessing)]


def reference_of(splits: Any, answers: dict[str, Any]) -> Any:
    """The reference that drift is measured against. `answers`: the task's statistics of its answers."""
    from edgeloop_contract.manifest import ChannelStatistics
    from edgeloop_pipeline.data.types import Statistics

    if splits.dtype == "int32" or splits.inputs:  # token ids are names: they have no mean; several inputs have no common one
        return None
    values = Statistics.of(splits.train.values)
    return ChannelStatistics(
        mean=values.mean.tolist(), std=values.std.tolist(), low=values.low.tolist(), high=values.high.tolist(), **answers
    )


def provenance_of(project: Any) -> Any:
    """The sources of this project's bundles: recipe, data, code and versions."""
    import hashlib
    from importlib.metadata import version

    from edgeloop_contract.manifest import Provenance

    def digest(parts: dict[str, str]) -> str:
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()

    libraries = ("edgeloop", "torch", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "numpy")
    return Provenance(
        recipe_sha256=project.recipe.sha256, code_sha256=digest(project.code_digests),
        data_sha256=digest(project.data_digests), seed=project.recipe.head.seed, parent=project.recipe.head.parent,
        versions={name: version(name) for name in libraries},
    )  # fmt: skip
