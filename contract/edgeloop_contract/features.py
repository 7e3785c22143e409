"""What a manifest uses that readers of schema 1 do not know. The writer marks it, so that no device takes what it cannot run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from edgeloop_contract.manifest import INPUT, SCORES, Canary, Classification, Manifest, Variant
from edgeloop_contract.preprocessing import takes_texts
from edgeloop_contract.tasks import Detection, Instances, Keypoints, Multilabel, Segmentation, Tensors
from edgeloop_contract.tensors import TensorSpec

__all__ = ["lowest_reader", "used"]

# features that readers of schema 2 do not know
READER_3 = {
    "step tokenize", "task detection", "task segmentation", "task multilabel", "task keypoints", "task instances",
    "texts beside other inputs",
}  # fmt: skip

DTYPES_1 = {"uint8", "int8", "int16", "float32"}
TENSOR_1 = {"dtype", "shape", "quantization"}
STEPS_1 = {
    "window": {"length", "hop", "short"}, "pad": {"length"}, "counts": {"lsb", "zero"}, "grayscale": set(), "colour": set(),
    "log_mel": {"rate_hz", "window", "hop", "bands", "low_hz", "high_hz", "range_db"}, "resize": {"height", "width"},
}  # fmt: skip


def used(manifest: Manifest) -> list[str]:
    """Names of the features, sorted. []: schema 1 says all of the manifest."""
    return sorted(set(_used(manifest)))


def lowest_reader(features: Sequence[str]) -> int:
    """The lowest schema whose readers know all of these."""
    return 3 if READER_3 & set(features) else 2 if features else 1


def _used(manifest: Manifest) -> Iterator[str]:
    if isinstance(manifest.task, Tensors):
        yield "task tensors"
    if isinstance(manifest.task, Detection):
        named = {Keypoints: "task keypoints", Instances: "task instances"}
        yield named.get(type(manifest.task), "task detection")
    if isinstance(manifest.task, Segmentation):
        yield "task segmentation"
    if isinstance(manifest.task, Multilabel):
        yield "task multilabel"
    if manifest.task.output:
        yield "named tensors"
    if isinstance(manifest.task, Classification) and manifest.task.scores != "logits":
        yield "scores that are probabilities"
    if [entry.name for entry in manifest.inputs] != [INPUT]:
        yield "named tensors"
    if len(manifest.inputs) > 1 and any(takes_texts(entry.preprocessing) for entry in manifest.inputs):
        yield "texts beside other inputs"
    for entry in manifest.inputs:
        yield from _steps(entry.preprocessing)
        yield from _tensor(entry.sample)
    for variant in manifest.variants:
        yield from _variant(manifest, variant)
    yield from _canary(manifest.canary)
    if manifest.drift_reference is None or manifest.provenance is None:
        yield "unknown origin"


def _variant(manifest: Manifest, variant: Variant) -> Iterator[str]:
    if len(variant.inputs) != 1 or len(variant.outputs) != 1:
        yield "named tensors"
    if variant.states or variant.kept_inside:
        yield "state"
    for spec in (*variant.inputs, *variant.outputs):
        yield from _tensor(spec)
    sample = manifest.sample.dtype
    if variant.inputs and variant.input.dtype != sample and (sample, variant.input.dtype) != ("uint8", "int8"):
        yield "conversion to the file's own type"


def _tensor(spec: TensorSpec) -> Iterator[str]:
    if spec.dtype not in DTYPES_1:
        yield f"dtype {spec.dtype}"
    if msgspec.to_builtins(spec).keys() - TENSOR_1:
        yield "constant inputs" if spec.constant is not None else "named tensors"


def _steps(steps: Sequence[Any]) -> Iterator[str]:
    for step in steps:
        fields = msgspec.to_builtins(step)
        tag = fields.pop("step")
        if tag not in STEPS_1:
            yield f"step {tag}"
        else:
            yield from (f"step {tag} with {name}" for name in sorted(fields.keys() - STEPS_1[tag]))


def _canary(canary: Canary | None) -> Iterator[str]:
    if canary is None or not canary.labels:
        yield "no labelled samples"
    if canary is not None:
        goldens = [canary.golden, *canary.variants.values()]
        if list(canary.inputs) != [INPUT] or any(list(golden) != [SCORES] for golden in goldens):
            yield "named tensors"
