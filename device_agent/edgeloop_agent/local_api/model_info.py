"""What the local API says of a model: metadata, config and statistics of Open Inference Protocol v2 and of Triton."""

from __future__ import annotations

import msgspec

from edgeloop_contract.arrays import DTYPES
from edgeloop_contract.inference import DATATYPE_NAMES
from edgeloop_contract.manifest import SCORES, Manifest
from edgeloop_contract.tasks import Detection, Segmentation, Task, Tensors
from edgeloop_contract.tensors import TensorSpec


class TensorMetadata(msgspec.Struct, frozen=True):
    """`shape`: with -1 for the batch."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class TensorConfig(msgspec.Struct, frozen=True):
    """`dims`: without the batch."""

    name: str
    data_type: str
    dims: list[int]


class ModelConfig(msgspec.Struct, frozen=True):
    name: str
    platform: str
    max_batch_size: int
    input: list[TensorConfig]
    output: list[TensorConfig]


class Duration(msgspec.Struct, frozen=True):
    """`ns`: nanoseconds of all `count` inferences together."""

    count: int
    ns: int


class InferenceStatistics(msgspec.Struct, frozen=True):
    success: Duration


class ModelStatistics(msgspec.Struct, frozen=True):
    name: str
    version: str
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics


class Statistics(msgspec.Struct, frozen=True):
    model_stats: list[ModelStatistics]


def metadata_of(name: str, manifest: Manifest) -> ModelMetadata:
    """Names, types and shapes of a model's tensors: prepared samples in, real values out."""
    inputs = [TensorMetadata(e.name, _datatype(e.sample), [-1, *e.sample.shape]) for e in manifest.inputs]
    task, variant = manifest.task, manifest.variants[0]
    given = variant.outputs if isinstance(task, Tensors | Detection | Segmentation) else [variant.output_of(task)]
    outputs = [TensorMetadata(spec.name or SCORES, _output_datatype(spec, task), [-1, *spec.shape]) for spec in given]
    return ModelMetadata(name, [str(manifest.version)], "edgeloop", inputs, outputs)


def _output_datatype(spec: TensorSpec, task: Task) -> str:
    """Scores and quantized outputs are given as real values."""
    return "FP32" if spec.quantization is not None or not isinstance(task, Tensors) else _datatype(spec)


def _datatype(spec: TensorSpec) -> str:
    return DATATYPE_NAMES[DTYPES[spec.dtype]]


def config_of(name: str, manifest: Manifest, max_batch: int) -> ModelConfig:
    """The config that Triton's clients ask for beside the metadata."""
    metadata = metadata_of(name, manifest)
    given, made = (
        [TensorConfig(t.name, f"TYPE_{t.datatype}", t.shape[1:]) for t in tensors]
        for tensors in (metadata.inputs, metadata.outputs)
    )
    return ModelConfig(name, metadata.platform, max_batch, given, made)
