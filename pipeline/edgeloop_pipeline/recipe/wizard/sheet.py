"""A sheet of some annotated pictures with their boxes: a wrong reading of the annotations is seen at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.sources.pictures import read_image
from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_pipeline.data.datasets.annotations.pictures import AnnotatedPicture, Annotations

__all__ = ["FILE", "draw_sheet"]

FILE = "boxes.jpg"
DOT = 2  # pixels from a point's middle
SHOWN, COLUMNS, SIDE, GAP = 12, 4, 280, 8  # pictures, of which so many in a row; pixels
COLOURS = ("#0b7a75", "#d92d20", "#b54708", "#175cd3", "#6941c6", "#4d7c0f", "#c11574", "#344054")


def draw_sheet(found: Annotations, folder: Path) -> Path:
    """Write FILE into `folder`: pictures evenly spread over the data set, a colour for each label (again after eight)."""
    from PIL import Image, ImageDraw

    rows = evenly_spaced_rows(len(found.pictures), SHOWN)
    tiles = [_tile(found.pictures[i], found.labels) for i in rows]
    lines = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, lines * (SIDE + GAP) + GAP + 16), "white")
    for place, tile in enumerate(tiles):
        y, x = divmod(place, COLUMNS)
        sheet.paste(tile, (GAP + x * (SIDE + GAP), GAP + y * (SIDE + GAP)))
    pen = ImageDraw.Draw(sheet)
    for i, label in enumerate(found.labels[: len(COLOURS)]):
        pen.text((GAP + i * 100, sheet.height - 16), label[:14].encode("ascii", "replace").decode(), fill=COLOURS[i])
    sheet.save(folder / FILE, quality=85)
    return folder / FILE


def _tile(picture: AnnotatedPicture, labels: tuple[str, ...]) -> Any:
    from PIL import Image, ImageDraw

    image = Image.fromarray(np.asarray(read_image(picture.path))).convert("RGB")
    scale = SIDE / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(image)
    for box in picture.boxes:
        colour = COLOURS[labels.index(box.label) % len(COLOURS)]
        for x, y, known in zip(box.points[::3], box.points[1::3], box.points[2::3], strict=True):
            if known:
                x, y = x * scale, y * scale
                pen.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], fill=colour)
        pen.rectangle([edge * scale for edge in box.edges], outline=colour, width=2)
    return image
