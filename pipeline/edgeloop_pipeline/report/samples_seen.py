"""Some samples as an imported model sees them, with its own answers beside those of int8: a wrong guess is seen at once."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.boxes import POINT_VALUES
from edgeloop_contract.preprocessing.tokens import Tokenizing
from edgeloop_exporters.named_inputs import samples_of
from edgeloop_exporters.named_outputs import separate
from edgeloop_pipeline.bundling.canary import canary_rows
from edgeloop_pipeline.bundling.file_names import CANARY
from edgeloop_pipeline.bundling.variants import answer_outputs, answers_of
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.tasks.kept_boxes import KeptBoxes

__all__ = ["Seen", "samples_seen"]

SIDE = 160  # pixels, at most, of a picture in the report
BOX_COLOUR = (230, 60, 20)
MASK_SHARE = 100  # of 255: how much of a mask's pixels is colour
SURE = 0.5  # the score from which on a point is drawn
MAX_TEXT = 200  # characters
MASK_SIDE = 8  # an answer with two axes at least as long is drawn


@dataclass(frozen=True)
class Seen:
    """One sample. `picture`: a data URI, or ""; `answer`, `small_answer`: of the original and of int8, in words or as data URIs."""

    picture: str
    text: str
    answer: str
    small_answer: str
    drawn: bool
    same: bool | None
    note: str = ""  # of boxes: what was found; both answers are drawn into the picture
    several: bool = False  # inputs, of which the picture is one


def samples_seen(inputs: Inputs) -> list[Seen]:
    """The canary's samples. Empty where the model is not imported, or verification did not run."""
    found = inputs.holding(CANARY)
    if inputs.project.recipe.head.imported is None or not found:
        return []
    with np.load(found[-1][1] / CANARY, allow_pickle=False) as file:
        values, scores = file["inputs"], file["scores"]
    splits = inputs.project.splits
    labels = np.asarray(splits.validation.labels)[canary_rows(splits, len(values))]
    texts = _texts(inputs.project, values)
    labels, beside = answers_of(labels, splits), _texts_beside(inputs.project, values)
    return [
        _seen(splits, values[i], labels[i], scores[i], texts[i], {name: some[i] for name, some in beside.items()})
        for i in range(len(values))
    ]


def _texts(project: Any, values: Array) -> list[str]:
    """What token ids stand for, as far as the tokenizer tells it; "" for other samples."""
    steps = project.with_files(project.recipe.head.preprocessing)
    step = next((step for step in steps if isinstance(step, Tokenizing)), None)
    return [""] * len(values) if step is None else [_decoded(step, row) for row in values]


def _texts_beside(project: Any, values: Array) -> dict[str, list[str]]:
    """By input that takes a text, what its token ids stand for."""
    found = {}
    for entry in project.recipe.head.imported.inputs:
        for step in project.with_files(entry.preprocessing):
            if isinstance(step, Tokenizing):
                ids = samples_of(values, project.splits.inputs)[entry.name]
                found[entry.name] = [_decoded(step, row) for row in ids]
    return found


def _decoded(step: Tokenizing, ids: Array) -> str:
    return str(step.tokenizer.decode([int(i) for i in ids if i != step.settings.pad]))[:MAX_TEXT]


def _seen(splits: Any, sample: Array, label: Any, scores: Array, words: str, beside: Mapping[str, str]) -> Seen:
    """`words`: of a model of texts; `beside`: texts by input, of one with several."""
    picture = _picture(sample) if sample.dtype == np.uint8 and sample.ndim == 3 and sample.shape[-1] in (1, 3) else ""
    text, several = words or _range(sample), bool(splits.inputs)
    if several:
        parts = {name: values[0] for name, values in samples_of(sample[None], splits.inputs).items()}
        text = "; ".join(f"{name}: {beside[name] if name in beside else _range(values)}" for name, values in parts.items())
        pictures = [x for x in parts.values() if x.ndim == 3 and x.shape[-1] in (1, 3) and min(x.shape[:2]) >= MASK_SIDE]
        picture = _picture(_counts(pictures[0], float(pictures[0].min()), float(pictures[0].max()))) if pictures else ""
    if splits.task == "classification":
        best = int(scores.argmax())
        powers = np.exp(scores.astype(np.float64) - scores.max())
        small = f"{splits.labels[best]} ({powers[best] / powers.sum():.0%})"
        return Seen(picture, text, splits.labels[int(label)], small, False, best == int(label), several=several)
    if splits.boxes is not None:
        return _boxes(splits, sample, label, scores, text)
    if (drawn := _map_of(np.asarray(label))) is not None:
        low, high = float(drawn.min()), float(drawn.max())
        other = _map_of(scores)
        assert other is not None
        both = [_picture(_counts(values, low, high)[..., None]) for values in (drawn, other)]
        return Seen(picture, text, both[0], both[1], True, None, several=several)
    said, small = (_said(splits, values) for values in (np.asarray(label), scores))
    return Seen(picture, text, said, small, False, None, several=several)


def _range(sample: Array) -> str:
    if sample.size == 1:
        return f"{float(sample.reshape(-1)[0]):.4g}"
    return f"{sample.dtype} {list(sample.shape)}, {float(sample.min()):.4g} to {float(sample.max()):.4g}"


def _said(splits: Any, answer: Array) -> str:
    """An answer in words; of several outputs each."""
    if not splits.outputs:
        return _numbers(answer)
    return "; ".join(f"{name}: {_numbers(values[0])}" for name, values in separate(answer[None], answer_outputs(splits)).items())


def _boxes(splits: Any, sample: Array, label: Any, scores: Array, text: str) -> Seen:
    """The picture twice, with the boxes of the original and of int8, their masks and points."""
    from PIL import Image, ImageDraw

    kept = KeptBoxes(splits.boxes, splits.outputs, splits.shape[0], splits.shape[1])
    pictures, counts = [], []
    for answer in (np.asarray(label), scores):
        (found,) = kept.found(answer[None])
        image = Image.fromarray(sample[..., 0] if sample.shape[-1] == 1 else sample).convert("RGB")
        for mask, top, left in kept.masks(answer[None], [found])[0]:
            image.paste(BOX_COLOUR, (left, top), Image.fromarray(mask.astype(np.uint8) * MASK_SHARE))
        draw = ImageDraw.Draw(image)
        reach = max(1, max(sample.shape) // (SIDE // 2))
        for x, y, sure in kept.points(answer[None], [found])[0].reshape(-1, POINT_VALUES).tolist():
            if sure >= SURE:
                draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=BOX_COLOUR)
        for box in found.boxes.tolist():
            draw.rectangle(box, outline=BOX_COLOUR, width=max(2, max(sample.shape) // SIDE))
        pictures.append(_picture(np.asarray(image)))
        counts.append(Counter(splits.labels[number] for number in found.labels))
    named = ["; ".join(f"{count} × {name}" for name, count in counted.items()) or "no box" for counted in counts]
    return Seen(pictures[0], text, "", pictures[1], True, None, f"{named[0]} (int8: {named[1]})")


def _map_of(answer: Array) -> Array | None:
    """(H, W) of an answer that is a map; of several channels, the first."""
    while answer.ndim > 2:
        answer = answer[..., 0] if answer.shape[-1] == 1 else answer[0]
    return answer if answer.ndim == 2 and min(answer.shape) >= MASK_SIDE else None


def _counts(values: Array, low: float, high: float) -> Array:
    return np.clip((values - low) / max(high - low, 1e-9) * 255, 0, 255).astype(np.uint8)


def _picture(values: Array) -> str:
    """(H, W, 1 or 3) counts as a PNG in a data URI."""
    from PIL import Image

    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _numbers(answer: Array) -> str:
    flat = answer.reshape(-1)
    shown = ", ".join(f"{value:.3g}" for value in flat[:4])
    return f"[{shown}{', …' if len(flat) > 4 else ''}]"
