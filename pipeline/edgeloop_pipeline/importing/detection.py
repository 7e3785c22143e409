"""A detector among the models that come in: its layout of boxes, and its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeloop_contract.boxes import Pose, outputs_of
from edgeloop_contract.errors import UsageError
from edgeloop_contract.tasks import Detection, Instances
from edgeloop_exporters.joined_outputs import with_joined_outputs
from edgeloop_exporters.model_files.description import ModelFile
from edgeloop_exporters.model_files.detectors import Detector, detector_of, labels_of, point_names, subjects_of
from edgeloop_exporters.model_files.split_detectors import Answers, split_detector
from edgeloop_pipeline.importing.request import CompressRequest
from edgeloop_pipeline.recipe.settings import MASK_FIELDS, ImportedBoxes

if TYPE_CHECKING:
    from edgeloop_pipeline.importing.output_meaning import Answer

__all__ = ["found", "is_pose", "joined"]

REMEDY = "say how its outputs give boxes with --boxes (docs/detection.md has the layouts)"


def may_detect(request: CompressRequest) -> bool:
    """Whether nothing was said that boxes do not go with."""
    return request.task not in ("classification", "tensors") and request.measure in (None, "boxes")


def joined(
    model: ModelFile, content: bytes, shapes: Mapping[str, tuple[int, ...]], request: CompressRequest, picture: tuple[int, ...],
    answers: Answers,
) -> tuple[bytes, Detector] | None:  # fmt: skip
    """A file whose boxes several outputs say, as one with these joined; None where they are no boxes that are known here."""
    if len(picture) != 2 or not may_detect(request) or request.boxes is not None or request.outputs:
        return None
    if detector_of(model, shapes, picture[0], picture[1]) is not None:
        return None
    known = split_detector(model.outputs, shapes, picture[0], picture[1], answers)
    if known is None:
        return None
    if request.drop_in:
        raise UsageError(f"--io original: the outputs of {request.model} are joined, as boxes; leave it out, or add --task tensors")
    return with_joined_outputs(content, known[1], str(request.model)), known[0]


def is_pose(
    model: ModelFile, shapes: Mapping[str, tuple[int, ...]], request: CompressRequest, picture: tuple[int, ...]
) -> bool:  # fmt: skip
    """Whether all outputs together are poses without boxes: a file may name labels of one of them, such as left and right."""
    if len(picture) != 2 or request.outputs or not may_detect(request):
        return False
    if request.boxes is not None:
        return isinstance(request.boxes.decode, Pose)
    known = _known(model, shapes, request, picture)
    return known is not None and isinstance(known.layout, Pose)


def _known(
    model: ModelFile, shapes: Mapping[str, tuple[int, ...]], request: CompressRequest, picture: tuple[int, ...]
) -> Detector | None:  # fmt: skip
    """What the outputs are by themselves. Several labels are of pixels, and not of what is only likely a pose."""
    known = detector_of(model, shapes, picture[0], picture[1])
    likely = known is not None and isinstance(known.layout, Pose) and not known.sure
    return None if likely and len(request.labels) > 1 else known


def found(
    answer: Answer, model: ModelFile, shapes: Mapping[str, tuple[int, ...]], request: CompressRequest, picture: tuple[int, ...],
    detector: Detector | None = None,
) -> bool:  # fmt: skip
    """Whether the outputs are boxes; then `answer` says which. Raises UsageError where something has to be said."""
    if not may_detect(request):
        if request.points:
            raise UsageError("--points: are of boxes; leave it out, or the --task and --measure that are not for boxes")
        return False
    asked = request.task == "detection" or request.boxes is not None or request.measure == "boxes" or bool(request.points)
    if len(picture) == 2 and detector is None:
        detector = _known(model, shapes, request, picture) if request.boxes is None else None
        if request.boxes is not None:
            detector = Detector(request.boxes.decode, labels_of(request.boxes.decode, shapes) or 0, True, "boxes, as said")
    if detector is None:
        if asked:
            why = REMEDY if len(picture) == 2 else "boxes are found in pictures, and its input is none"
            raise UsageError(f"{request.model}: its outputs are no boxes that are known here; {why}")
        return False
    given = request.boxes
    if isinstance(detector.layout, Pose) and len(model.outputs) > 1:
        answer.outputs = outputs_of(detector.layout)
    names, whose = point_names(detector.layout, model, request.points)
    answer.boxes = (
        ImportedBoxes(
            decode=detector.layout, iou_threshold=detector.iou_threshold, points=names, prototypes=detector.prototypes,
            prototype_channels=detector.prototype_channels, mask_threshold=detector.mask_threshold,
        )
        if given is None
        else ImportedBoxes(
            decode=given.decode, score_threshold=given.score_threshold, iou_threshold=given.iou_threshold,
            max_boxes=given.max_boxes, points=names, **_prototypes_of(given),
        )
    )  # fmt: skip
    if names:
        (answer.guesses if "--points" in whose else answer.facts).append(f"{len(names)} points, {whose}")
    answer.measure, answer.labels = "boxes", _labels(answer, model, detector, request)
    (answer.facts if detector.sure else answer.guesses).append(
        detector.why + ("" if detector.sure else " (--task tensors, if it does not)")
    )
    near = ", with points at the same places" if names else ", with masks that overlap by half" if answer.boxes.prototypes else ""
    answer.facts.append(f"int8 is judged by the share of boxes that both find{near}: nobody labelled the data")
    return True


def _prototypes_of(given: Detection) -> dict[str, Any]:
    """What is said of masks."""
    if not isinstance(given, Instances):
        return {}
    return {name: getattr(given, name) for name in MASK_FIELDS}


def _labels(answer: Answer, model: ModelFile, detector: Detector, request: CompressRequest) -> list[str]:
    usual = subjects_of(detector.layout)
    labels, wanted = request.labels or ([] if usual else list(model.metadata.labels)), detector.labels
    if wanted and len(labels) != wanted and (request.labels or (labels and request.boxes is not None)):
        raise UsageError(f"{request.model}: by this layout a box has {wanted} scores, and there are {len(labels)} labels")
    if labels and wanted in (0, len(labels)):
        answer.facts.append(f"{len(labels)} labels, {'as said' if request.labels else 'from the file'}")
        return labels
    if usual:
        answer.guesses.append(f"what has these points is called {usual[0]}; --labels names it")
        return usual
    if not wanted:
        raise UsageError(f"{request.model}: does not say what it finds; name its labels with --labels")
    answer.guesses.append(f"{wanted} labels without names; --labels names them")
    return [f"label {number}" for number in range(wanted)]
