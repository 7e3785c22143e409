"""The last picture as the page shows it: small, with boxes or masks. Needs Pillow (the extra `images`); else there is none."""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgspec
import numpy as np

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.box_answers import Box
from edgeloop_agent.drawing import drawn, painted
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError

__all__ = ["as_shown"]

LONGEST_SIDE = 480  # pixels: an encoder needs a millisecond for so many
QUALITY = 75


def as_shown(values: Array, lines: Sequence[AnswerLine]) -> bytes:
    """A picture of uint8 as a JPEG of at most LONGEST_SIDE, with what the first line found; b"" for anything else."""
    step = max(1, -(-max(values.shape[:2]) // LONGEST_SIDE))
    small = np.ascontiguousarray(values[::step, ::step])
    line = lines[0] if lines else None
    try:
        masks, found = (line.masks or (), line.boxes or ()) if line is not None else ((), ())
        if masks or any(box.mask for box in found):
            small = painted(small, masks, step, found)
        boxes = [_shrunk(box, step) for box in found]
        out = io.BytesIO()
        drawn(small, boxes).save(out, "JPEG", quality=QUALITY)
        return out.getvalue()
    except (DataError, DeviceError):
        return b""


def _shrunk(box: Box, step: int) -> Box:
    """Without its mask, which is painted already."""
    points = box.points and [msgspec.structs.replace(one, point=[place / step for place in one.point]) for one in box.points]
    return msgspec.structs.replace(box, box=[edge / step for edge in box.box], points=points, mask=None)
