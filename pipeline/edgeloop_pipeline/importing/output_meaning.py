"""What a model's answer is, and by what int8 is judged where nobody labelled the data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_exporters.model_files.description import ModelFile, Tensor
from edgeloop_exporters.model_files.detectors import Detector
from edgeloop_exporters.model_files.finished_boxes import finished_boxes
from edgeloop_exporters.model_files.pixel_maps import described, grid_of
from edgeloop_exporters.token_inputs import TOKENS
from edgeloop_pipeline.data.datasets.input_rows import InputRows
from edgeloop_pipeline.data.datasets.recordings import Recordings
from edgeloop_pipeline.importing import detection
from edgeloop_pipeline.importing.request import CompressRequest
from edgeloop_pipeline.importing.texts import text_data
from edgeloop_pipeline.recipe.settings import ImportedBoxes, ImportedMasks, Measure

__all__ = ["Answer", "answer_of", "labels_of_data"]

MAX_NAMED = 5
MIN_EMBEDDING = 16  # values: fewer are numbers of a regression, whose cosine and power hardly change with the sample
PUBLIC_CLASSES = (1000, 1001, 21841, 21843)  # of ImageNet: so many values are scores
REASONS = {
    "agreement": "the share of samples with the same answer",
    "cosine": "the cosine between the two answers",
    "mask_iou": "the overlap of the two masks",
    "r2": "R², 1 − noise / variance of the answers over the samples",
    "signal": "1 − noise / signal of the answers",
    "boxes": "the share of boxes that both find",
}


@dataclass
class Answer:
    """The chosen outputs; []: the only one. `labelled`: the data's folders are named after the labels, so accuracy is known."""

    outputs: list[str]
    task: Literal["classification", "tensors"]
    measure: Measure | None
    labels: list[str]
    labelled: bool = False
    boxes: ImportedBoxes | None = None
    masks: ImportedMasks | None = None
    facts: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)


def answer_of(
    model: ModelFile, shapes: dict[str, tuple[int, ...]], request: CompressRequest, picture: tuple[int, ...] = (),
    detector: Detector | None = None,
) -> Answer:  # fmt: skip
    """The meaning of the outputs. `shapes`: one sample's answer by output; `picture`: height and width of its sample, if it is one;
    `detector`: what they are, if that is known.

    Raises UsageError where something has to be said.
    """
    answer = Answer([], "tensors", None, [])
    posed = detection.is_pose(model, shapes, request, picture)
    several = list(model.outputs) if posed else _chosen(answer, model, shapes, request)
    if detection.found(answer, model, {tensor.name: shapes[tensor.name] for tensor in several}, request, picture, detector):
        return answer
    if len(several) > 1:
        _tensors(answer, several, shapes, request)
        return answer
    (chosen,) = several
    shape, scores = shapes[chosen.name], math.prod(shapes[chosen.name])
    labels = request.labels or list(model.metadata.labels)
    if _masks(answer, chosen, shape, labels, request, picture):
        return answer
    if labels and (request.labels or not model.metadata.labels_output or model.metadata.labels_output == chosen.name):
        if len(labels) == scores > 1 and request.task != "tensors":
            answer.labels = labels
            source = request.source("labels") if request.labels else f"from {model.metadata.sources.get('labels', 'the file')}"
            answer.facts.append(f"{len(labels)} labels, {source}")
        elif not request.labels:
            answer.guesses.append(
                f"the file names {len(labels)} labels, and {chosen.name} gives {scores} scores: they are left out"
            )
        else:
            raise UsageError(f"--labels: there are {len(labels)}, and {chosen.name} gives {scores} scores of shape {list(shape)}")
    known = answer.labels or (scores == max(shape) > 1 and (chosen.activation == "softmax" or scores in PUBLIC_CLASSES))
    if request.task == "classification" or (known and request.task is None):
        _classification(answer, chosen, scores, request, model.inputs[0].name == TOKENS)
    else:
        answer.measure = request.measure or _measure(answer, chosen, shape)
        answer.facts.append(f"int8 is judged by {REASONS[answer.measure]}: nobody labelled the data")
    return answer


def _masks(
    answer: Answer, chosen: Tensor, shape: tuple[int, ...], labels: list[str], request: CompressRequest, picture: tuple[int, ...]
) -> bool:  # fmt: skip
    """Whether the output says a label for each pixel of the picture; then `answer` says how."""
    grid = grid_of(shape, len(labels), (*picture, 3)) if len(picture) == 2 else None
    if grid is None or request.task is not None or request.measure not in (None, "agreement", "mask_iou", "signal"):
        return False
    scores: Literal["logits", "probabilities"] = "probabilities" if chosen.activation in ("softmax", "sigmoid") else "logits"
    answer.masks = ImportedMasks(height=grid.height, width=grid.width, channels=grid.channels, scores=scores)
    answer.labels = labels
    task = answer.masks.task(labels)
    answer.facts.append(described(task, f"{chosen.name} {list(shape)}"))
    if chosen.activation not in ("softmax", "sigmoid", "linear"):
        answer.guesses.append(f"{chosen.name} is taken as logits: the file does not show it (--task tensors, if it is not)")
    measure: Measure = request.measure or ("mask_iou" if grid.single else "agreement")
    answer.measure = measure
    what = "the share of pixels with the same label" if measure == "agreement" else REASONS[measure]
    answer.facts.append(f"int8 is judged by {what}: nobody labelled the data")
    return True


def _chosen(answer: Answer, model: ModelFile, shapes: dict[str, tuple[int, ...]], request: CompressRequest) -> list[Tensor]:
    """The outputs that count: those that were named, or the one with labels, or all."""
    outputs = {tensor.name: tensor for tensor in model.outputs}
    for name in request.outputs:
        if name not in outputs:
            raise UsageError(f"--output {name}: {request.model} has {', '.join(outputs)}")
    wanted = list(dict.fromkeys(request.outputs)) or list(outputs)
    shown = ", ".join(f"{name} {list(shapes[name])}" for name in outputs)
    labelled, count = model.metadata.labels_output, len(model.metadata.labels)
    if not request.outputs and len(outputs) > 1 and labelled in outputs:
        if _has_score_each(shapes[labelled], count):
            wanted = [labelled]
            answer.guesses.append(
                f"of the outputs ({shown}), {labelled} counts: the file's labels are of it (--output names others too)"
            )
        else:
            named = ", ".join(model.metadata.labels[:MAX_NAMED])
            answer.guesses.append(
                f"the file's labels ({named}) are of {labelled}, which has no score for each: they are left out, all outputs count"
            )
    whole = [name for name in wanted if (outputs[name].dtype or "").startswith(("int", "uint", "bool"))]
    if len(whole) == len(outputs):
        raise UsageError(
            f"{request.model}: gives whole numbers alone ({shown}), which are counted or chosen, not computed; `edgeloop pack` puts"
            " it into a bundle as it is"
        )
    if whole and finished_boxes(model, shapes, 1, 1) is not None:
        raise UsageError(
            f"{request.model}: its boxes are finished in the graph ({shown}), and no integers compute that: export it without its"
            " postprocessing, or name the outputs before it with --output; `edgeloop pack` puts it into a bundle as it is"
        )
    if whole:
        raise UsageError(
            f"{request.model}: its output {whole[0]} gives {outputs[whole[0]].dtype}, which is counted or chosen, not computed; say"
            f" which outputs of {shown} count, each with --output"
        )
    if len(outputs) > 1:
        answer.outputs = wanted
    return [outputs[name] for name in wanted]


def _has_score_each(shape: tuple[int, ...], labels: int) -> bool:
    """Whether an output of this shape is scores of so many labels, of the whole sample or at each pixel."""
    return math.prod(shape) == labels or (len(shape) == 3 and labels in (shape[0], shape[-1]))


def _tensors(answer: Answer, several: list[Tensor], shapes: dict[str, tuple[int, ...]], request: CompressRequest) -> None:
    """Several outputs: arrays, each judged by itself."""
    if request.task == "classification" or request.labels:
        said = "--labels" if request.labels else "--task classification"
        names = ", ".join(f"{tensor.name} {list(shapes[tensor.name])}" for tensor in several)
        raise UsageError(f"{said}: {request.model} has {len(several)} outputs ({names}); say which holds the scores with --output")
    kinds = {_measure(Answer([], "tensors", None, []), tensor, shapes[tensor.name]) for tensor in several}
    answer.measure = request.measure or (kinds.pop() if len(kinds) == 1 else "signal")
    names = ", ".join(f"{tensor.name} {list(shapes[tensor.name])}" for tensor in several)
    answer.facts.append(f"{len(several)} outputs: {names}")
    answer.facts.append(f"int8 is judged by {REASONS[answer.measure]}, of the worst output: nobody labelled the data")


def _classification(answer: Answer, chosen: Tensor, scores: int, request: CompressRequest, texts: bool) -> None:
    answer.task = "classification"
    if scores < 2:
        raise UsageError(f"--task classification: {chosen.name} gives one value; leave it out, or say another --output")
    if not answer.labels:
        answer.labels = [f"class {i}" for i in range(scores)]
        answer.guesses.append(f"{scores} classes without names ({chosen.activation or 'as said'} at the end); --labels names them")
    if texts:
        answer.labelled = _have_labels({text.label for text in text_data(request).texts}, request, answer)
    elif request.label_column:
        answer.labelled = _have_labels(set(_rows_of(request).labels(request.label_column)), request, answer)
    else:
        answer.labelled = _folders_name_labels(request.calibrate, answer)
    if request.measure not in (None, "agreement"):
        raise UsageError(
            f"--measure {request.measure}: a classification is judged by agreement; add --task tensors for another measure"
        )
    if answer.labelled and request.measure is None:
        by_row = "the texts have the model's labels" if texts else "the rows have the model's labels"
        what = by_row if texts or request.label_column else "the folders are named after the labels"
        answer.facts.append(f"{what}: accuracy is measured")
        return
    answer.measure = "agreement"
    answer.facts.append(f"int8 is judged by {REASONS['agreement']}: nobody labelled the data")


def labels_of_data(request: CompressRequest) -> set[str]:
    """The labels that the data have by folder or column; none where they are not those that were said. Raises DataError."""
    answer = Answer([], "classification", None, request.labels)
    if request.label_column:
        given = set(_rows_of(request).labels(request.label_column))
        return given if _have_labels(given, request, answer) else set()
    if not _folders_name_labels(request.calibrate, answer):
        return set()
    return {path.parent.name for path in Recordings(request.calibrate).files()}


def _rows_of(request: CompressRequest) -> InputRows:
    """The rows of a table of several inputs. Raises UsageError where the data are none."""
    data = Recordings(request.calibrate, inputs=request.fed, texts=tuple(request.texts))
    if not data.is_table:
        raise UsageError(f"--label-column: {request.calibrate} is no table with a column for each input; name folders after labels")
    return data.rows


def _have_labels(given: set[str], request: CompressRequest, answer: Answer) -> bool:
    """Whether all that was given for labels, by folders or by a column, is a label of the model, by name or number."""
    known = {label for label in given if label in answer.labels or (label.isdecimal() and int(label) < len(answer.labels))}
    if request.label_column and given - known:
        shown = ", ".join(map(repr, sorted(given - known)[:MAX_NAMED]))
        raise DataError(f"{request.calibrate}: its labels {shown} are none of the model's ({', '.join(answer.labels[:MAX_NAMED])})")
    return bool(given) and given == known


def _folders_name_labels(place: Path, answer: Answer) -> bool:
    """Whether every file's folder has the name of a label; if only some do, that is said."""
    if place.is_file():
        return False
    names = {path.parent.name for path in Recordings(place).files() if path.parent != place}
    known = names & set(answer.labels)
    if not known or any(path.parent == place for path in Recordings(place).files()):
        if len(names) > 1:
            shown = ", ".join(sorted(names)[:MAX_NAMED])
            answer.guesses.append(
                f"folders ({shown}{' …' * (len(names) > MAX_NAMED)}) are not named after labels: they label nothing"
            )
        return False
    if names - known:
        raise DataError(
            f"{place}: folders {', '.join(sorted(names - known)[:MAX_NAMED])} are named after no label, and"
            f" {', '.join(sorted(known)[:MAX_NAMED])} are; rename them, or move them away"
        )
    return True


def _measure(answer: Answer, chosen: Tensor, shape: tuple[int, ...]) -> Measure:
    """By the output's form. What is only likely is said."""
    one_channel = len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[-1]))
    if chosen.activation == "sigmoid" and one_channel and math.prod(shape) > max(shape):
        return "mask_iou"
    if chosen.activation == "softmax" and len(shape) == 2 and min(shape) > 1:
        answer.guesses.append(f"{list(shape)} is taken as classes at each place, as of letters (--measure signal, if it is not)")
        return "agreement"
    if len(shape) == 3 and 1 < shape[0] < min(shape[1:]):
        answer.guesses.append(f"{list(shape)} is taken as {shape[0]} classes a pixel (--measure signal, if it is not)")
        return "agreement"
    if math.prod(shape) < MIN_EMBEDDING and chosen.activation == "linear":
        if math.prod(shape) > 1:
            taken = f"{math.prod(shape)} values are taken as numbers"
            answer.guesses.append(f"{taken} (--task classification, if they are scores of classes)")
        return "r2"
    if math.prod(shape) == max(shape) > 1:
        if chosen.activation == "linear" and max(shape) <= 2000:
            answer.guesses.append(
                f"{max(shape)} values are taken as an embedding (--task classification, if they are scores of classes)"
            )
        return "cosine"
    return "signal"
