"""Whether an output says a label for each pixel, and what is said of models whose masks and points are not served."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloop_contract.errors import UsageError
from edgeloop_contract.tasks import MAX_MASKS, Segmentation
from edgeloop_contract.tensors import TensorSpec
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.pixel_maps import described, grid_of, segmentation, with_background
from edgeloop_pipeline.packing.request import PackRequest, Scores

__all__ = ["check_served", "segmentation_of"]

# What exporters call the tasks whose answers nobody reads here yet.
NOT_SERVED = {
    "segment": "masks of single things, which are not as usual: say --boxes with prototypes (docs/detection.md); or",
    "obb": "turned boxes are not read yet;",
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
    """A label for each pixel, where an output has (labels, height, width) scores of a picture, labels first or last, or one map.

    None where none has.

    Raises UsageError where it is asked for and cannot be.
    """
    asked = request.task == "segmentation"
    sample = inputs[0].sample_shape
    named = with_background(labels)
    fitting = [spec for spec in outputs if grid_of(spec.shape, len(labels), sample, _is_whole(spec)) is not None]
    chosen = [spec for spec in fitting if request.output in ("", spec.name, spec.tensor)]
    if not asked and (len(chosen) != 1 or not 2 <= len(named) <= MAX_MASKS):
        return None
    if not 2 <= len(named) <= MAX_MASKS:
        raise UsageError(
            f"--task segmentation: {len(labels)} labels; pixels need 1 to {MAX_MASKS}: give all of them with --labels, and the"
            " background where it has scores"
        )
    if len(chosen) != 1:
        raise UsageError(_why_not(outputs, fitting, len(labels), sample))
    (spec,) = chosen
    grid = grid_of(spec.shape, len(labels), sample, _is_whole(spec))
    assert grid is not None
    scores = "numbers" if grid.numbers else _scores(models, spec, request, facts)
    task = segmentation(labels, grid, scores, spec.name if len(outputs) > 1 else "")
    facts.append(described(task, f"{spec.name} {spec.shape}"))
    return task


def _is_whole(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("int", "uint")) and spec.quantization is None


def _why_not(outputs: Sequence[TensorSpec], fitting: Sequence[TensorSpec], labels: int, sample: Sequence[int]) -> str:
    sizes = ", ".join(f"{spec.name} {spec.shape}" for spec in outputs)
    if len(fitting) > 1:
        return f"--task segmentation: which output holds the masks? Say --output; the model gives {sizes}"
    needed = f"an output of ({labels}, height, width) scores, or of labels' numbers, is needed"
    return f"--task segmentation: the model gives {sizes}; {needed}, no larger than the picture {list(sample[:2])}"


def _scores(models: Sequence[ModelFile], spec: TensorSpec, request: PackRequest, facts: list[str]) -> Scores:
    ends = [t.activation for model in models for t in model.outputs if t.name == spec.tensor]
    if request.scores is not None:
        return request.scores
    if any(end in ("softmax", "sigmoid") for end in ends):
        return "probabilities"
    if "linear" not in ends:
        facts.append(f"{spec.name} is taken as logits: the file does not show it (--scores probabilities, if they are)")
    return "logits"
