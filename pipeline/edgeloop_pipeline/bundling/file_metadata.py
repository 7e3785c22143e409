"""What a model of the pipeline means, for its files: task, labels, preprocessing, name and version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from edgeloop_contract.manifest import Runtime
from edgeloop_contract.preprocessing import Colour, Grayscale, Resize, Step
from edgeloop_exporters.model_files.description import InputMetadata, Metadata, Normalization
from edgeloop_exporters.model_files.writing import with_metadata
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.tasks.registry import task_for

__all__ = ["growth", "metadata_of", "stamped"]

LONGEST_NAME, LONGEST_VERSION = "n" * 64, 2**31 - 1  # of a recipe: its name and version are in no key of a stage that measures
SCORES = {
    "classification": "Classifies into {count} labels; its scores are logits.",
    "regression": "Estimates {count} quantities; value = score × score_std + score_mean.",
    "anomaly": "Reconstructs its normalized input; a large error is an anomaly.",
    "tensors": "Answers with an array.",
    "detection": "Finds things of {count} labels: logarithms of distances in strides, and logits, of grid cells.",
    "multilabel": "Says which of {count} labels a sample has; its scores are logits, whose sigmoids are probabilities.",
    "keypoints": "Finds things of {count} labels with points: distances, logits, and points of grid cells in strides.",
    "segmentation": "Gives each pixel one of {count} labels; its scores are logits of grid cells.",
}


def metadata_of(splits: PreparedSplits, preprocessing: Sequence[Step], name: str, version: int) -> Metadata:
    """The metadata of a model that was trained on these samples. Author and licence are not known here."""
    more = {}
    if splits.task == "regression":
        mean, std = task_for(splits).scale  # type: ignore[attr-defined]
        more = {"score_mean": _json(mean), "score_std": _json(std)}
    return Metadata(
        name=name, version=str(version), task=splits.task, description=SCORES[splits.task].format(count=len(splits.labels)),
        labels=() if splits.task in ("anomaly", "tensors") else tuple(splits.labels),  # whose scores are no labels'
        preprocessing=tuple(preprocessing), more=more,
    )  # fmt: skip


def stamped(
    content: bytes, runtime: Runtime, metadata: Metadata, shape: tuple[int, ...], counts: tuple[float, int] | None = None
) -> bytes:
    """The file with the metadata in it. `shape`: one sample's; `counts`: scale and uint8 zero point, where an int8 file reads them.

    Raw counts go in without normalization. TFLite's int8 input is the count minus 128, which is the normalization, quantized.
    """
    mean, std = (float(counts[1]), 1.0 / counts[0]) if counts and runtime == "tflite" else (0.0, 1.0)
    picture = any(isinstance(step, (Resize, Colour, Grayscale)) for step in metadata.preprocessing or ())
    given = InputMetadata(
        name="input", normalization=Normalization((mean,), (std,)),
        colour={1: "grey", 3: "rgb"}.get(shape[-1]) if picture and len(shape) == 3 else None,  # type: ignore[arg-type]
    )  # fmt: skip
    return with_metadata(content, runtime, msgspec.structs.replace(metadata, inputs=(given,)))


def growth(content: bytes, runtime: Runtime, splits: PreparedSplits, preprocessing: Sequence[Step]) -> int:
    """The bytes that the metadata adds to a file at most, whatever the recipe's name and version are."""
    metadata = metadata_of(splits, preprocessing, LONGEST_NAME, LONGEST_VERSION)
    return len(stamped(content, runtime, metadata, splits.shape)) - len(content)


def _json(values: Any) -> str:
    return msgspec.json.encode([float(v) for v in values]).decode()
