"""Whether an output says a label for each pixel, and what is said of models whose masks and points are not served."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloop_contract.errors import UsageError
from edgeloop_contract.masks import BACKGROUNDS
from edgeloop_contract.tasks import MAX_MASKS, Segmentation
from edgeloop_contract.tensors import TensorSpec
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_pipeline.packing.request import PackRequest

__all__ = ["check_served", "segmentation_of"]

# What exporters call the tasks whose answers nobody reads here yet.
NOT_SERVED = {
    "segment": "masks of single things are not read yet;", "obb": "turned boxes are not read yet;",
    "pose": "points of boxes, and it does not say how many: say --boxes, such as {layout: rows, channels: first, points: 17}; or",
}  # fmt: skip


def check_served(models: Sequence[ModelFile], request: PackRequest) -> None:
    """Raises UsageError for a file that says it answers what a bundle cannot say, unless a task is given."""
    for model in models:
        kind = model.metadata.task.lower()
        if kind in NOT_SERVED and request.task is None and request.boxes is None and not request.quantities:
            raise UsageError(
                f"{model.path}: its task is {kind!r}: {NOT_SERVED[kind]} --task tensors answers its outputs as they are"
            )


def segmentation_of(
    models: Sequence[ModelFile], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], labels: list[str],
    request: PackRequest, facts: list[str],
) -> Segmentation | None:  # fmt: skip
    """A label for each pixel, where an output has (labels, height, width) scores of a picture. None where none has.

    Raises UsageError where it is asked for and cannot be.
    """
    asked = request.task == "segmentation"
    sample = inputs[0].sample_shape
    fitting = [spec for spec in outputs if labels and _fits(spec, len(labels), sample)]
    chosen = [spec for spec in fitting if request.output in ("", spec.name, spec.tensor)]
    if not asked and (len(chosen) != 1 or not 2 <= len(labels) <= MAX_MASKS):
        return None
    if not 2 <= len(labels) <= MAX_MASKS:
        raise UsageError(
            f"--task segmentation: {len(labels)} labels; pixels need 2 to {MAX_MASKS}, the background among them: give all"
            " with --labels"
        )
    if len(chosen) != 1:
        raise UsageError(_why_not(outputs, fitting, len(labels), sample))
    (spec,) = chosen
    _check_logits(models, spec, request, facts)
    count, height, width = spec.shape
    background = next((label for label in labels if label.lower() in BACKGROUNDS), "")
    facts.append(
        f"{spec.name} {spec.shape} holds {count} scores of each of {height} × {width} cells: masks"
        + (f" of all labels but {background}" if background else " of all labels; one called background gets none")
    )
    output = spec.name if len(outputs) > 1 else ""
    return Segmentation(labels=labels, height=height, width=width, background=background, output=output)


def _fits(spec: TensorSpec, labels: int, sample: Sequence[int]) -> bool:
    """(labels, height, width) of a grid over the picture (height, width, channels), as fine as it or coarser."""
    return (
        len(spec.shape) == len(sample) == 3
        and spec.shape[0] == labels
        and 1 < spec.shape[1] <= sample[0]
        and 1 < spec.shape[2] <= sample[1]
    )


def _why_not(outputs: Sequence[TensorSpec], fitting: Sequence[TensorSpec], labels: int, sample: Sequence[int]) -> str:
    sizes = ", ".join(f"{spec.name} {spec.shape}" for spec in outputs)
    if len(fitting) > 1:
        return f"--task segmentation: which output holds the masks? Say --output; the model gives {sizes}"
    if any(len(spec.shape) == 3 and spec.shape[2] == labels and spec.shape[0] > 1 for spec in outputs):
        remedy = "the labels stand last, and must stand first: export it as (labels, height, width)"
    elif any(spec.dtype.startswith(("int", "uint")) and spec.quantization is None for spec in outputs):
        remedy = "it answers numbers of labels, and scores are needed: export it without its argmax"
    else:
        remedy = f"an output of ({labels}, height, width) scores is needed, no larger than the picture {list(sample[:2])}"
    return f"--task segmentation: the model gives {sizes}; {remedy}"


def _check_logits(models: Sequence[ModelFile], spec: TensorSpec, request: PackRequest, facts: list[str]) -> None:
    ends = [t.activation for model in models for t in model.outputs if t.name == spec.tensor]
    if request.scores == "probabilities" or any(end in ("softmax", "sigmoid") for end in ends):
        raise UsageError(
            f"{models[0].path}: {spec.name} gives probabilities, and masks need logits to say how sure they are: export it without"
            " its last softmax or sigmoid"
        )
    if request.scores is None and "linear" not in ends:
        facts.append(f"{spec.name} is taken as logits: the file does not show it")
