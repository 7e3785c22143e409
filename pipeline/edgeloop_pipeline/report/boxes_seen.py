"""Validation pictures with their labelled boxes and those that int8 answers, drawn for the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import Found, iou_matrix
from edgeloop_pipeline.bundling.file_names import CANARY
from edgeloop_pipeline.data.boxes import NONE, POINT_VALUES, VALUES
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.results.files import VerifyResult
from edgeloop_pipeline.tasks.detection.task import Detection
from edgeloop_pipeline.tasks.keypoints.task import Keypoints
from edgeloop_pipeline.tasks.registry import task_for

__all__ = ["BoxesSeen", "boxes_seen"]

SHOWN, SIDE = 12, 320  # pictures, and pixels of a side
TRUTH, RIGHT, WRONG = "#ffffff", "#0b7a75", "#d92d20"
HALF = 0.5
DOT = 3  # pixels from a point's middle


@dataclass(frozen=True)
class BoxesSeen:
    """One picture as a data URI. `missed`, `extra`: labelled boxes that no answer finds, and answers on nothing labelled."""

    picture: str
    truths: int
    missed: int
    extra: int


def boxes_seen(inputs: Inputs, verified: VerifyResult | None) -> list[BoxesSeen]:
    """The canary's pictures, those with most errors first. Empty where the task is another, or verification did not run."""
    found = inputs.holding(CANARY)
    if verified is None or verified.boxes is None or not found:
        return []
    with np.load(found[-1][1] / CANARY, allow_pickle=False) as file:
        values, scores, labels = file["inputs"], file["scores"], file["labels"]
    if values.dtype != np.uint8 or values.shape[-1] not in (1, 3):
        return []
    task = task_for(inputs.project.splits)
    assert isinstance(task, Detection)
    answers = task.found(scores, verified.boxes.threshold)
    points = task.points(scores, answers) if isinstance(task, Keypoints) else [np.zeros((0, 0, 3))] * len(answers)
    rows = [_drawn(*row) for row in zip(values, labels, answers, points, strict=True)]
    return sorted(rows, key=lambda row: -(row.missed + row.extra))[:SHOWN]


def _drawn(picture: Array, truth: Array, answer: Found, points: Array) -> BoxesSeen:
    from PIL import Image, ImageDraw

    wanted = truth[truth[:, 0] != NONE]
    near = (iou_matrix(answer.boxes, wanted[:, 1:VALUES]) >= HALF) & (answer.labels[:, None] == wanted[None, :, 0])
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
    scale = max(1, SIDE // max(image.size))
    image = image.resize((image.width * scale, image.height * scale))
    pen = ImageDraw.Draw(image)
    for box in wanted[:, 1:VALUES]:
        pen.rectangle([float(edge) * scale for edge in box], outline=TRUTH)
    for box, right in zip(answer.boxes, near.any(1), strict=True):
        pen.rectangle([float(edge) * scale for edge in box], outline=RIGHT if right else WRONG, width=2)
    known = wanted[:, VALUES:].reshape(-1, POINT_VALUES)
    dots = [(TRUTH, known[known[:, 2] > 0]), (RIGHT, points[points[..., 2] >= HALF])]
    for colour, (x, y) in ((colour, row[:2] * scale) for colour, some in dots for row in some):
        pen.ellipse((float(x) - DOT, float(y) - DOT, float(x) + DOT, float(y) + DOT), fill=colour, outline="#000000")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return BoxesSeen(uri, len(wanted), int((~near.any(0)).sum()), int((~near.any(1)).sum()))
