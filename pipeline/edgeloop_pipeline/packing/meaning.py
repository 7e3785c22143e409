"""What the outputs mean, and how a recording becomes a sample: as said, else as the files say, else not known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from edgeloop_contract.boxes import Final, Rows
from edgeloop_contract.errors import UsageError
from edgeloop_contract.preprocessing import Bgr, CenterCrop, Colour, Grayscale, Letterbox, Normalize, Resize, Step
from edgeloop_contract.tasks import (
    Classification,
    Detection,
    Instances,
    Keypoints,
    Multilabel,
    Regression,
    Segmentation,
    Task,
    Tensors,
)
from edgeloop_contract.tensors import TensorSpec
from edgeloop_exporters.model_files.description import InputMetadata, ModelFile
from edgeloop_exporters.model_files.detectors import detector_of, labels_of, point_names, subjects_of
from edgeloop_pipeline.packing.pixels import check_served, segmentation_of
from edgeloop_pipeline.packing.request import PackRequest, Scores

__all__ = ["steps_of", "task_of"]

BOXES = ("detection", "keypoints")
THRESHOLD = 0.5  # of each label's probability, where nobody knows the validation data


def task_of(
    models: Sequence[ModelFile], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], request: PackRequest, facts: list[str]
) -> Task:
    """The task of the first file's tensors. Raises UsageError where it is asked for, and something that it needs is not known."""
    labels = _labels(models, request, facts)
    in_pictures = _in_pictures(models, inputs, outputs, labels, request, facts)
    if in_pictures is not None:
        return in_pictures
    if request.points:
        raise UsageError("--points: are of boxes, and the model finds none that is known here; say --boxes, or leave it out")
    kind = request.task or ("regression" if request.quantities else None)
    wanted = len(labels or request.quantities)
    fitting = [spec for spec in outputs if math.prod(spec.shape) == wanted] if wanted else []
    if kind is None:
        if labels and not fitting:
            sizes = ", ".join(f"{spec.name} {spec.shape}" for spec in outputs)
            raise UsageError(
                f"{len(labels)} labels, and no output of so many scores ({sizes}); give other labels, or --task tensors"
            )
        kind = "classification" if labels else "tensors"
    if kind == "tensors":
        return Tensors()
    if not wanted:
        raise UsageError(f"--task {kind}: say what the outputs are with {'--quantities' if kind == 'regression' else '--labels'}")
    chosen = [spec for spec in outputs if request.output in (spec.name, spec.tensor)] if request.output else fitting
    if len(chosen) != 1 or math.prod(chosen[0].shape) != wanted:
        names = ", ".join(f"{spec.name} {spec.shape}" for spec in outputs)
        raise UsageError(f"which output holds the {wanted} scores? Say --output; the model gives {names}")
    output = chosen[0].name if len(outputs) > 1 else ""
    if kind == "regression":
        return Regression(quantities=request.quantities, mean=[0.0] * wanted, std=[1.0] * wanted, output=output)
    scores = _scores(models, chosen[0], request, facts)
    if kind == "multilabel":
        facts.append(f"a sample has every label with a probability of {THRESHOLD} or more")
        return Multilabel(labels=labels, thresholds=[THRESHOLD] * wanted, scores=scores, output=output)
    facts += _hint(models)
    return Classification(labels=labels, scores=scores, output=output)


def _labels(models: Sequence[ModelFile], request: PackRequest, facts: list[str]) -> list[str]:
    """As said, else of the first file that has some."""
    model = next((model for model in models if model.metadata.labels), None)
    if request.labels or model is None:
        return request.labels
    labels = list(model.metadata.labels)
    facts.append(f"{len(labels)} labels, from {model.metadata.sources.get('labels', model.path)}")
    if request.task in (None, "classification", "multilabel"):
        _check_different(labels, model)
    return labels


def _in_pictures(
    models: Sequence[ModelFile], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], labels: list[str],
    request: PackRequest, facts: list[str],
) -> Detection | Segmentation | None:  # fmt: skip
    """Boxes or masks. None where the outputs are none. Raises UsageError."""
    if request.boxes is not None or (request.task in (None, *BOXES) and not request.quantities):
        detection = _detection(models[0], inputs, outputs, labels, request, facts)
        if detection is not None:
            return detection
    check_served(models, request)
    if request.task in (None, "segmentation") and not request.quantities:
        return segmentation_of(models, inputs, outputs, labels, request, facts)
    return None


def _detection(
    model: ModelFile, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], labels: list[str], request: PackRequest,
    facts: list[str],
) -> Detection | None:  # fmt: skip
    """A detector, by the layout that was said or that the file proves. None where it is none. Raises UsageError."""
    if request.boxes is not None:
        if request.task not in (None, *BOXES) or request.quantities:
            raise UsageError(f"--boxes: are not for --task {request.task or 'regression'}; leave out one of the two")
        labels = request.labels or subjects_of(request.boxes.decode) or labels
        if not labels:
            raise UsageError("--boxes: say what the boxes are of with --labels")
        scores = labels_of(request.boxes.decode, {spec.name or spec.tensor: tuple(spec.shape) for spec in outputs})
        if scores is not None and scores != len(labels):
            raise UsageError(f"--boxes: by this layout a box has {scores} scores, and there are {len(labels)} labels; correct one")
        return _with_points(msgspec.structs.replace(request.boxes, labels=list(labels)), model, request, facts)
    sample = inputs[0].sample_shape
    shapes = {spec.name or spec.tensor: tuple(spec.shape) for spec in outputs}
    detector = detector_of(model, shapes, sample[0], sample[1]) if len(sample) == 3 else None
    if detector is None or not (detector.sure or request.task in BOXES):
        if request.task in BOXES:
            raise UsageError(
                f"--task {request.task}: say how the outputs are boxes with --boxes; docs/detection.md has the layouts"
            )
        return None
    labels = request.labels or subjects_of(detector.layout) or labels  # a pose's file may have labels of another output
    if not labels or detector.labels not in (0, len(labels)):
        said = f"a box has {detector.labels} scores, and" if detector.labels else "boxes have numbers of labels, and"
        raise UsageError(f"{model.path}: {said} there are {len(labels)} labels; give all of them with --labels")
    facts.append(detector.why)
    if detector.prototypes and isinstance(detector.layout, Rows | Final):
        return Instances(
            labels=labels, decode=detector.layout, iou_threshold=detector.iou_threshold, prototypes=detector.prototypes,
            prototype_channels=detector.prototype_channels, mask_threshold=detector.mask_threshold,
        )  # fmt: skip
    task = Detection(labels=labels, decode=detector.layout, iou_threshold=detector.iou_threshold)
    return _with_points(task, model, request, facts)


def _with_points(task: Detection, model: ModelFile, request: PackRequest, facts: list[str]) -> Detection:
    """Keypoints where the layout's boxes have some."""
    names, whose = point_names(task.decode, model, request.points)
    if not names:
        if request.task == "keypoints":
            raise UsageError("--task keypoints: say how many points a box has with --boxes; docs/detection.md has the layouts")
        return task
    facts.append(f"{len(names)} points, {whose}")
    return Keypoints(**msgspec.structs.asdict(task), points=names)


def _hint(models: Sequence[ModelFile]) -> list[str]:
    """That a file which ends in a sigmoid may mean several labels."""
    if not any(tensor.activation == "sigmoid" for model in models for tensor in model.outputs):
        return []
    return ["a sigmoid decides each label by itself: where a sample may have several, say --task multilabel"]


def _check_different(labels: Sequence[str], model: ModelFile) -> None:
    """ImageNet's own list has two cranes."""
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        remedy = "give different ones with --labels, or --task tensors"
        raise UsageError(f"{model.path}: its own labels have {twice!r} {labels.count(twice)} times; {remedy}")


def _scores(models: Sequence[ModelFile], output: TensorSpec, request: PackRequest, facts: list[str]) -> Scores:
    if request.scores:
        return request.scores
    for model in models:
        for tensor in model.outputs:
            if tensor.name == output.tensor and tensor.scores:
                facts.append(f"scores are {tensor.scores}: {model.path} ends in {tensor.activation}")
                return tensor.scores
    raise UsageError(f"are the scores of {output.name} logits or probabilities? The file does not show it; say --scores")


def steps_of(models: Sequence[ModelFile], spec: TensorSpec, request: PackRequest, facts: list[str], only: bool) -> list[Step]:
    """The steps of one input: as said, else by what a file says of its input."""
    for said in (spec.name, spec.tensor, *([""] if only else [])):
        if said in request.steps:
            return request.steps[said]
    for model in models:
        if model.metadata.preprocessing is not None and only:
            facts.append(f"preprocessing, from {model.metadata.sources.get('preprocessing', model.path)}")
            return list(model.metadata.preprocessing)
        meaning = next((m for m in model.metadata.inputs if m.name in (spec.tensor, "")), None)
        if meaning is not None and (steps := _from_metadata(meaning, spec)):
            facts.append(f"preprocessing of {spec.name}, from the metadata of {model.path}")
            return steps
    return []


def _from_metadata(meaning: InputMetadata, spec: TensorSpec) -> list[Step]:
    """Pictures only: channels, size as it was trained (a library's own resize is antialiased), colour order, mean and deviation."""
    steps: list[Step] = []
    shape = spec.sample_shape
    if len(shape) == 3 and shape[2] in (1, 3) and (meaning.normalization or meaning.colour or meaning.size):
        steps.append(Grayscale() if shape[2] == 1 else Colour())
        height, width = meaning.size or (shape[0], shape[1])
        fitted = Letterbox(height=shape[0], width=shape[1]) if meaning.letterbox else None
        steps.append(fitted or Resize(height=height, width=width, antialias=bool(meaning.resample)))
        if meaning.crop is not None:
            steps.append(CenterCrop(height=meaning.crop[0], width=meaning.crop[1]))
        steps += [Bgr()] if meaning.colour == "bgr" else []
    if meaning.normalization is not None:
        steps.append(Normalize(mean=list(meaning.normalization.mean), std=list(meaning.normalization.std)))
    return steps
