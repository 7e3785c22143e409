"""Validation pictures with their labelled pixels and those that int8 answers, drawn for the report."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.masks import NOWHERE, in_picture
from edgeloop_pipeline.bundling.file_names import CANARY
from edgeloop_pipeline.data.masks import BACKGROUND
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.results.files import VerifyResult

__all__ = ["MasksSeen", "masks_seen"]

SHOWN, SIDE = 12, 256  # pictures, and pixels of a side
COLOURS = ((11, 122, 117), (217, 45, 32), (245, 158, 11), (37, 99, 235), (147, 51, 234), (22, 163, 74))
TINT = 0.55  # of a colour over the picture


@dataclass(frozen=True)
class MasksSeen:
    """One picture three times, as a data URI: alone, with its truth, and with the answer. `wrong`: share of labelled pixels."""

    picture: str
    wrong: float


def masks_seen(inputs: Inputs, verified: VerifyResult | None) -> list[MasksSeen]:
    """The canary's pictures, those with most errors first. Empty where the task is another, or verification did not run."""
    found = inputs.holding(CANARY)
    if verified is None or verified.masks is None or not found:
        return []
    with np.load(found[-1][1] / CANARY, allow_pickle=False) as file:
        values, scores, masks = file["inputs"], file["scores"], file["labels"]
    if values.dtype != np.uint8 or values.shape[-1] not in (1, 3):
        return []
    names = inputs.project.splits.labels
    rows = [_drawn(picture, mask, one, names) for picture, mask, one in zip(values, masks, scores, strict=True)]
    return sorted(rows, key=lambda row: -row.wrong)[:SHOWN]


def _drawn(picture: Array, truth: Array, scores: Array, names: tuple[str, ...]) -> MasksSeen:
    from PIL import Image

    answer = in_picture(scores.argmax(0).astype(np.uint8), truth.shape[0], truth.shape[1], None)
    plain = np.repeat(picture, 3, -1) if picture.shape[-1] == 1 else picture
    image = Image.fromarray(np.concatenate([plain, *(_tinted(plain, mask, names) for mask in (truth, answer))], 1))
    scale = max(1, SIDE // max(truth.shape))
    buffer = io.BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=80)
    known = truth != NOWHERE
    wrong = float((answer != truth)[known].mean()) if known.any() else 0.0
    return MasksSeen("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), wrong)


def _tinted(picture: Array, mask: Array, names: tuple[str, ...]) -> Array:
    made = picture.astype(np.float32)
    for number, name in enumerate(names):
        if name != BACKGROUND:
            there = mask == number
            made[there] = (1 - TINT) * made[there] + TINT * np.array(COLOURS[number % len(COLOURS)], np.float32)
    return made.astype(np.uint8)
