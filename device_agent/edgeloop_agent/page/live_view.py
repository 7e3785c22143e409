"""What the page shows, put together at most twice a second, and only while somebody looks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts, resident_bytes
from edgeloop_agent.models import Models
from edgeloop_agent.page.pictures import as_shown
from edgeloop_agent.sources import Recording
from edgeloop_contract.arrays import Array

__all__ = ["LiveView"]

PERIOD_SECONDS = 0.5
SILENCE_SECONDS = 10.0  # after which a comment says that the connection lives
LAST_ANSWERS, LAST_LOG_LINES = 12, 30
POINTS, CHANNELS = 120, 6  # of a series that is shown
MAX_TEXT = 200


class Shown(msgspec.Struct, frozen=True):
    """One recording with its answers."""

    number: int
    values: Array | None
    lines: Sequence[AnswerLine]


class LiveView:
    """`see` is called by the inference loop and keeps references alone; `events` by each viewer's thread."""

    def __init__(self, models: Models, counts: Counts, log: Log, max_viewers: int) -> None:
        self._models, self._counts, self._log = models, counts, log
        self._places = threading.BoundedSemaphore(max_viewers)
        self._answers: deque[tuple[float, AnswerLine]] = deque(maxlen=LAST_ANSWERS)
        self._last: Shown | None = None
        self._lock = threading.Lock()
        self._made, self._made_at = b"", float("-inf")
        self._picture, self._picture_of = b"", -1
        self._number = 0

    def see(self, recording: Recording, lines: Sequence[AnswerLine]) -> None:
        now = time.time()
        for line in lines[-LAST_ANSWERS:]:
            self._answers.append((now, line))
        self._number += 1
        self._last = Shown(self._number, recording.values, lines[:1])

    def begin(self) -> bool:
        """Take a viewer's place; False where there is none. `end` gives it back."""
        return self._places.acquire(blocking=False)

    def events(self) -> Iterator[bytes]:
        """Server-sent events: what is shown whenever it changed, and b"" where it did not. Gives the place of `begin` back."""
        try:
            sent, at = b"", time.monotonic()
            while True:
                now = self._current()
                if now != sent:
                    sent, at = now, time.monotonic()
                    yield b"data: " + now + b"\n\n"
                elif time.monotonic() - at > SILENCE_SECONDS:
                    at = time.monotonic()
                    yield b": still here\n\n"
                else:
                    yield b""
                time.sleep(PERIOD_SECONDS)
        finally:
            self._places.release()

    def picture(self) -> bytes:
        """The last picture with its boxes or masks, as JPEG; b"" where there is none."""
        with self._lock:  # one at a time, once for all who look
            last = self._last
            if last is None or last.values is None:
                return b""
            if last.number != self._picture_of:
                self._picture, self._picture_of = as_shown(last.values, last.lines), last.number
            return self._picture

    def _current(self) -> bytes:
        with self._lock:
            if time.monotonic() - self._made_at >= PERIOD_SECONDS:
                self._made, self._made_at = msgspec.json.encode(self._now()), time.monotonic()
            return self._made

    def _now(self) -> dict[str, Any]:
        counts, reading, last = self._counts, self._counts.reading, self._last
        taken = sorted(counts.recent.milliseconds)
        manifest = self._models.manifests[self._models.first]
        loaded = next((m for m in self._models.loaded() if m.name == manifest.name), None)
        tracking = counts.tracking
        return {
            "model": manifest.name, "version": manifest.version, "variant": loaded.variant if loaded else "",
            "runtime": loaded.runtime if loaded else "", "building": self._models.building,
            "sha256": loaded.sha256[:12] if loaded else "", "task": type(manifest.task).__name__.lower(),
            "answers": [{"at": at, "text": in_words(line)} for at, line in reversed(list(self._answers))],
            "picture": last.number if last is not None and _is_picture(last.values) else None,
            "series": _series(last.values) if last is not None else None,
            "p50": taken[len(taken) // 2] if taken else None, "p95": taken[int(len(taken) * 0.95)] if taken else None,
            "answered": counts.answered, "refused": sum(counts.refused.values()), "dropped": sum(counts.dropped.values()),
            "queue": counts.queue, "outputs": dict(counts.outputs_waiting), "restarts": counts.restarts,
            "source": counts.source_unavailable, "opened": counts.source_opened, "frames": dict(counts.frames),
            "age": counts.last_capture_to_answer, "drift": counts.drift, "alarms": counts.drift_alarms,
            "thermal": counts.thermal, "celsius": reading.celsius if reading else None,
            "watts": reading.watts if reading else None, "memory": resident_bytes(), "started": counts.started,
            "lines": tracking.counted.lines if tracking is not None else [],
            "zones": tracking.counted.zones if tracking is not None else [],
            "log": list(self._log.recent)[-LAST_LOG_LINES:],
        }  # fmt: skip


def in_words(line: AnswerLine) -> str:
    """An answer in a few words."""
    if line.refused is not None:
        text = f"refused: {line.refused}"
    elif line.boxes is not None:
        text = ", ".join(f"{box.label} {box.score:.0%}" for box in line.boxes) or "nothing found"
    elif line.masks is not None:
        text = ", ".join(f"{mask.label} {mask.share:.0%}" for mask in line.masks) or "nothing found"
    elif line.labels is not None:
        text = ", ".join(f"{one.label} {one.score:.0%}" for one in line.labels) or "nothing found"
    elif line.label is not None:
        share = (line.probabilities or {}).get(line.label)
        text = line.label + (f" {share:.0%}" if share is not None else f" (score {line.score:g})" if line.score is not None else "")
    elif line.values is not None:
        text = ", ".join(f"{name} {value:g}" for name, value in line.values.items())
    else:
        text = ", ".join(line.tensors or {})
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def _is_picture(values: Array | None) -> bool:
    return (
        values is not None and values.dtype == np.uint8 and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3)))
    )


def _series(values: Array | None) -> list[list[float]] | None:
    """Channels of a series or of sound as points between 0 and 1, for a small plot; None for anything else."""
    if values is None or values.ndim not in (1, 2) or values.dtype.kind not in "iuf" or len(values) < 2 or _is_picture(values):
        return None
    rows = values.reshape(len(values), -1)[:, :CHANNELS]
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), POINTS)).astype(int)].astype(float)
    rows = np.nan_to_num(rows)
    low, span = float(rows.min()), float(np.ptp(rows)) or 1.0
    return [[round(float(v), 3) for v in channel] for channel in ((rows - low) / span).T]
