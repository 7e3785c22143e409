"""Draws boxes and masks into a picture, with labels, scores, points and tracks. Needs Pillow (the extra `images`)."""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.box_answers import Box
from edgeloop_agent.mask_answers import Mask
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError, StorageError, UsageError
from edgeloop_contract.manifest import Manifest
from edgeloop_contract.tasks import Detection, Segmentation

__all__ = ["Pictures", "drawn", "painted"]

# Told apart on light and dark pictures; a track or a label keeps its colour.
COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe")
SMALLEST_TEXT, TEXT_SHARE, LINE_SHARE = 10, 40, 250  # pixels; parts of the picture's shorter side
LONGEST_NAME = 100
WIDE_FONT = ("DejaVuSans.ttf", "DejaVu Sans")  # file and name: with letters of many languages, where it is installed
POINT_SHARE, SURE = 120, 0.5  # of the shorter side: a point's radius; the score from which on it is drawn


def drawn(picture: Array, boxes: Sequence[Box], masks: Sequence[Mask] = ()) -> Any:
    """A picture (H, W), (H, W, 1) or (H, W, 3), uint8, with `boxes` and `masks` in it, as a PIL image in colours.

    Raises DataError for another array, and DeviceError without Pillow.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise DeviceError("drawing needs Pillow: pip install 'edgeloop[images]'") from error
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)) or not picture.size:
        what = f"an array of shape {picture.shape}, {picture.dtype}"
        raise DataError(f"{what}; boxes and masks are drawn into pictures (height, width, 3) of uint8")
    picture = painted(picture, masks, boxes=boxes) if masks or any(box.mask for box in boxes) else picture
    image = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB")
    pen, shorter = ImageDraw.Draw(image), min(image.size)
    font = _font(max(SMALLEST_TEXT, shorter // TEXT_SHARE))
    for box in reversed(boxes):  # the best ones on top
        colour = COLOURS[_number(box) % len(COLOURS)]
        x1, y1, x2, y2 = box.box
        pen.rectangle((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline=colour, width=max(1, shorter // LINE_SHARE))
        reach = max(2, shorter // POINT_SHARE)
        for point in box.points or []:
            if point.score >= SURE:
                x, y = point.point
                pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour, outline="black")
        text = _text(box, font)
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x, y = min(max(x1, 0), max(image.width - (right - left), 0)), max(y1 - (bottom - top) - 2, 0)
        pen.rectangle((x, y, x + right - left + 2, y + bottom - top + 2), fill=colour)
        pen.text((x + 1 - left, y + 1 - top), text, fill="black", font=font)
    _name_masks(image, masks)
    return image


def painted(picture: Array, masks: Sequence[Mask], step: int = 1, boxes: Sequence[Box] = ()) -> Array:
    """Half of each mask's colour over a picture (H, W), (H, W, 1) or (H, W, 3), uint8. A mask of another size is left out.

    `step`: the picture has every so many pixels of those that the masks are of. `boxes`: whose own masks have the boxes' colours.
    """
    whole = picture[..., None] if picture.ndim == 2 else picture
    found = np.broadcast_to(whole, (*whole.shape[:2], 3)).copy()
    named = [(mask.mask, zlib.crc32(mask.label.encode())) for mask in masks]
    of_boxes = [(box.mask, _number(box)) for box in reversed(boxes) if box.mask is not None]
    for mask, number in (*named, *of_boxes):
        inside = mask.pixels()[::step, ::step]
        if inside.shape == found.shape[:2]:
            colour = COLOURS[number % len(COLOURS)]
            rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.uint16)
            found[inside] = ((found[inside].astype(np.uint16) + rgb) // 2).astype(np.uint8)
    return found


def _name_masks(image: Any, masks: Sequence[Mask]) -> None:
    """Write each mask's label, share and confidence in the corner, in its colour."""
    from PIL import ImageDraw

    pen, font, top = ImageDraw.Draw(image), _font(max(SMALLEST_TEXT, min(image.size) // TEXT_SHARE)), 0
    for mask in masks:
        text = _readable(f"{mask.label} {mask.share:.0%} {mask.confidence:.2f}", font)
        left, above, right, below = pen.textbbox((0, 0), text, font=font)
        pen.rectangle(
            (0, top, right - left + 2, top + below - above + 2), fill=COLOURS[zlib.crc32(mask.label.encode()) % len(COLOURS)]
        )
        pen.text((1 - left, top + 1 - above), text, fill="black", font=font)
        top += round(below - above) + 3


class Pictures:
    """Pictures of one run with boxes or masks, one PNG each in `folder`. Raises UsageError where the model answers neither."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        if not isinstance(manifest.task, Detection | Segmentation):
            raise UsageError(f"{folder}: {manifest.name} answers no boxes or masks to draw; leave --draw out")
        self._folder, self._count = folder, 0

    def add(
        self, name: str, picture: Array | None, boxes: Sequence[Box] | None, masks: Sequence[Mask] | None = None
    ) -> None:  # fmt: skip
        """Write the next one; none for a recording without a picture or an answer. Raises StorageError, DataError, DeviceError."""
        self._count += 1
        if picture is None or (boxes is None and masks is None) or picture.ndim not in (2, 3) or picture.dtype != np.uint8:
            return
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:LONGEST_NAME]  # a name may hold a path
        path, image = self._folder / f"{self._count:06d}-{plain}.png", drawn(picture, boxes or (), masks or ())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            image.save(path, "PNG")
        except OSError as error:
            why = error.strerror or error
            raise StorageError(f"{path}: cannot be written ({why}); make room, or name another folder") from error


def _number(box: Box) -> int:
    return zlib.crc32(box.label.encode()) if box.track is None else box.track


def _text(box: Box, font: Any) -> str:
    then = "".join(f" {part.label}" for part in (box.then or {}).values() if part.label is not None)
    return _readable(f"{box.label}{then} {box.score:.2f}" + ("" if box.track is None else f" #{box.track}"), font)


def _readable(text: str, font: Any) -> str:
    """In letters that the font has."""
    from PIL import ImageFont

    if isinstance(font, ImageFont.FreeTypeFont) and font.getname()[0] == WIDE_FONT[1]:
        return text
    plain = unicodedata.normalize("NFKD", text)  # Pillow's own fonts have no letters beyond ASCII: an ü becomes a u
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")


def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(WIDE_FONT[0], size)
    except (ImportError, OSError):
        pass
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError, OSError):  # Pillow before 10.1, or built without FreeType
        return ImageFont.load_default()
