"""Answers as messages for other programs: JSON with an id, a time, and who says it."""

from __future__ import annotations

import io
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec

from edgeloop_agent.answering import AnswerLine
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Manifest

__all__ = ["MAX_MESSAGE_BYTES", "Message", "Speaker", "as_jpeg"]

MAX_MESSAGE_BYTES = 1 << 20
JPEG_QUALITY = 80


class Message(msgspec.Struct, frozen=True):
    """`id`: no other message ever has it. `body`: JSON. `picture`: a JPEG, b"" without one."""

    id: str
    time: str
    body: bytes
    picture: bytes = b""

    @property
    def size(self) -> int:
        return len(self.body) + len(self.picture)


class Speaker:
    """Makes messages of answers. `device`: the name that others know it by."""

    def __init__(self, device: str, manifest: Manifest, clock: Callable[[], float] = time.time) -> None:
        self.device, self.manifest, self._clock = device, manifest, clock
        self._run, self._count = f"{os.getpid():x}-{secrets.token_hex(6)}", 0

    def message(self, line: AnswerLine, picture: bytes = b"") -> Message:
        """`line` with `id`, `time`, `device`, `model`, `version`; its `confidence`, and the `counts` of its boxes by label.

        Raises ValueError for one that is larger than MAX_MESSAGE_BYTES.
        """
        self._count += 1
        number, at = f"{self._run}-{self._count}", datetime.fromtimestamp(self._clock(), timezone.utc)
        when = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        head: dict[str, Any] = {
            "id": number, "time": when, "device": self.device, "model": self.manifest.name, "version": self.manifest.version,
        }  # fmt: skip
        if line.label is not None and line.probabilities is not None:
            head["confidence"] = line.probabilities.get(line.label)
        if line.boxes is not None:
            head["counts"] = Counter(box.label for box in line.boxes)
        body = msgspec.json.encode(head)[:-1] + b"," + msgspec.json.encode(line)[1:]
        if len(body) + len(picture) > MAX_MESSAGE_BYTES:
            raise ValueError(f"an answer of {len(body) + len(picture)} bytes; at most {MAX_MESSAGE_BYTES} are sent")
        return Message(number, when, body, picture)


def as_jpeg(values: Array | None) -> bytes:
    """A picture (H, W), (H, W, 1) or (H, W, 3) of uint8 as JPEG; b"" for anything else, or too large, or without Pillow."""
    if values is None or str(values.dtype) != "uint8" or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (3,)):
        return b""
    try:
        from PIL import Image
    except ImportError:
        return b""
    out = io.BytesIO()
    try:
        Image.fromarray(values[..., 0] if values.shape[2:] == (1,) else values).save(out, "JPEG", quality=JPEG_QUALITY)
    except (OSError, ValueError):  # sides of more than 65,500 pixels, or of none
        return b""
    return out.getvalue()
