"""Pictures with a detector's answer drawn into them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from edgeloop.models import Answer, as_recording
from edgeloop_agent.box_answers import Box
from edgeloop_agent.drawing import drawn
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError

__all__ = ["draw"]


def draw(picture: str | os.PathLike[str] | Array, answer: Answer | Sequence[Box]) -> Any:
    """The picture with the answer's boxes or masks, labels and scores drawn into it, as a PIL image.

        draw("a.jpg", model("a.jpg")).save("b.png")

    `picture`: a path, or an array (H, W), (H, W, 1) or (H, W, 3) of uint8, as it was given to the model. `answer`: of a detector
    or a segmentation, or boxes. Raises DataError where it has neither or the picture cannot be read, DeviceError without Pillow.
    """
    boxes, masks = (answer.boxes, answer.masks) if isinstance(answer, Answer) else (answer, None)
    if boxes is None and masks is None:
        raise DataError("the answer has no boxes or masks; only answers of detectors and segmentations can be drawn")
    recording = as_recording(picture)
    if recording.values is None:
        raise DataError(f"{recording.name}: {recording.refused or 'several arrays; give the picture alone'}")
    return drawn(recording.values, list(boxes or ()), list(masks or ()))
