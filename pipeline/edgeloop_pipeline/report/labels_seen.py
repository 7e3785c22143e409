"""Validation samples with their labels and those that int8 answers, for the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from edgeloop_agent.label_answers import probabilities_of
from edgeloop_contract.arrays import Array
from edgeloop_contract.tasks import NOT_KNOWN
from edgeloop_pipeline.bundling.file_names import CANARY
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.results.files import VerifyResult
from edgeloop_pipeline.tasks.multilabel.task import Multilabel

__all__ = ["LabelsSeen", "labels_seen"]

SHOWN, SIDE = 12, 192  # samples, and pixels of a picture's side


@dataclass(frozen=True)
class LabelsSeen:
    """One sample. `picture`: a data URI, "" where it is no picture. `right`, `missed`, `extra`: labels."""

    picture: str
    right: list[str]
    missed: list[str]
    extra: list[str]


def labels_seen(inputs: Inputs, verified: VerifyResult | None) -> list[LabelsSeen]:
    """The canary's pictures, those with most errors first. Empty where samples are none, or the task is another."""
    found = inputs.holding(CANARY)
    if verified is None or verified.multilabel is None or not found:
        return []
    with np.load(found[-1][1] / CANARY, allow_pickle=False) as file:
        values, scores, labels = file["inputs"], file["scores"], file["labels"]
    if values.dtype != np.uint8 or values.ndim != 4 or values.shape[-1] not in (1, 3):
        return []
    task = Multilabel(inputs.project.splits).described(verified)
    answered = (probabilities_of(task, scores.reshape(labels.shape)) >= task.thresholds) & (labels != NOT_KNOWN)
    rows = [_seen(*row, task.labels) for row in zip(values, labels == 1, answered, strict=True)]
    return sorted(rows, key=lambda row: -len(row.missed) - len(row.extra))[:SHOWN]


def _seen(picture: Array, truth: Array, answered: Array, names: list[str]) -> LabelsSeen:
    from PIL import Image

    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
    scale = max(1, SIDE // max(image.size))
    buffer = io.BytesIO()
    image.resize((image.width * scale, image.height * scale)).save(buffer, "JPEG", quality=80)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    parts = (answered & truth, truth & ~answered, answered & ~truth)
    return LabelsSeen(uri, *([names[i] for i in np.flatnonzero(part)] for part in parts))
