"""A recording becomes lines: cleaned, prepared, answered; or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeloop_agent.counts import Counts
from edgeloop_agent.engine import Engine
from edgeloop_agent.runtimes import Array
from edgeloop_agent.sources import Recording
from edgeloop_contract.cleaning import NearDuplicate, clean, thumbnail
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.manifest import Manifest

Lines = list[dict[str, Any]]


class Answering:
    """One model's answers. `engine`: asked each time, as the model may be another by then."""

    def __init__(self, manifest: Manifest, engine: Callable[[], Engine], counts: Counts) -> None:
        self.manifest, self.engine, self.counts = manifest, engine, counts
        self.failures = 0  # of the runtime, in a row
        self._duplicates = next((s for s in manifest.cleaning if isinstance(s, NearDuplicate)), None)
        self._last_image: Array | None = None
        self._last_lines: Lines = []

    def lines(self, recording: Recording) -> Lines:
        """An answer a window, or why there is none. Never raises for what a recording holds."""
        if recording.values is None:
            return self._refused(recording.name, "unreadable", recording.refused)
        try:
            lines = self._answered(recording, recording.values)
            self.failures = 0
            return lines
        except DeviceError as error:
            self.failures += 1
            return self._refused(recording.name, "runtime_failed", str(error))
        except DataError as error:
            return self._refused(recording.name, "does_not_fit", str(error))
        except (ValueError, TypeError, ArithmeticError, MemoryError) as error:  # of arithmetic on values nobody thought of
            return self._refused(recording.name, "does_not_fit", f"{type(error).__name__}: {error}")

    def _answered(self, recording: Recording, values: Array) -> Lines:
        image = None
        if self._duplicates is not None and values.ndim in (2, 3) and values.size:
            image = thumbnail(values)
            same = self._last_image is not None and self._last_image.shape == image.shape
            if same and self._duplicates.same_as(image, self._last_image):
                self.counts.skipped["near_duplicate"] += 1
                return [{**line, "input": recording.name, "repeated": True} for line in self._last_lines]
        cleaned = clean(self.manifest.cleaning, values, recording.times)
        self.counts.repaired.update(cleaned.repaired)
        if cleaned.refused:
            return self._refused(recording.name, cleaned.reason, cleaned.refused)
        repaired = {"repaired": cleaned.repaired} if cleaned.repaired else {}
        lines = []
        for answer in self.engine().answers(cleaned.values):
            if answer.refused:
                self.counts.refused["window"] += 1
            else:
                self.counts.answered += 1
            lines.append({"input": recording.name, **answer.said(), **repaired})
        if image is not None:
            self._last_image, self._last_lines = image, lines
        return lines

    def _refused(self, name: str, reason: str, text: str) -> Lines:
        self.counts.refused[reason] += 1
        return [{"input": name, "refused": text}]
