"""A recording becomes lines: cleaned, prepared, answered; or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
import numpy as np

from edgeloop_agent.answers import named
from edgeloop_agent.engine import Answer, Engine
from edgeloop_agent.metrics import Counts, kind_of
from edgeloop_agent.sources import Recording
from edgeloop_contract.arrays import Array
from edgeloop_contract.cleaning import NearDuplicate, clean, thumbnail
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.manifest import Manifest, Regression
from edgeloop_contract.preprocessing import Grayscale
from edgeloop_contract.resampling import as_heard

Line = dict[str, Any]


class Observer(Protocol):
    """Sees every answer, and every fault that cleaning found."""

    def saw(self, recording: Recording, answer: Answer) -> None: ...
    def fault(self, reason: str) -> None: ...


class Answering:
    """One model's answers. `engine`: asked each time, as the model may be another by then."""

    def __init__(self, manifest: Manifest, engine: Callable[[], Engine], counts: Counts, observer: Observer | None = None) -> None:
        self.manifest, self.engine, self.counts, self.observer = manifest, engine, counts, observer
        self.failures = 0  # of the runtime, in a row
        self.names = [] if isinstance(manifest.task, Regression) else manifest.task.labels
        self._duplicates = next((s for s in manifest.cleaning if isinstance(s, NearDuplicate)), None)
        self._last_image: Array | None = None
        self._last_lines: list[Line] = []

    def lines(self, recording: Recording) -> Iterator[Line]:
        """An answer a window as it comes, or why there is none. Never raises for what a recording holds."""
        try:
            values = self._chosen(recording)
            if values is None:
                yield self._refused(recording.name, "unreadable", recording.refused)
                return
            some = False
            for line in self._answered(recording, self._fitted(recording, values)):
                some = True
                yield line
            self.failures = 0
            if not some:
                yield self._refused(recording.name, "does_not_fit", f"no sample in it (shape {values.shape})")
        except DeviceError as error:
            self.failures += 1
            yield self._refused(recording.name, "runtime_failed", str(error))
        except DataError as error:
            yield self._refused(recording.name, "does_not_fit", str(error))
        except Exception as error:  # of arithmetic on values nobody thought of: it costs its recording, and says what it was
            yield self._refused(recording.name, "does_not_fit", f"{type(error).__name__}: {error}")

    def _chosen(self, recording: Recording) -> Array | None:
        """Of a table with a header line the columns that the model was trained on, whatever else is in it."""
        found = recording.by_name(self.manifest.channels) if recording.by_name is not None and self.manifest.channels else None
        return recording.values if found is None else found

    def _fitted(self, recording: Recording, values: Array) -> Array:
        """Sound with one channel at the model's rate; a grey picture with three equal channels where the model takes colours."""
        steps, shape = self.manifest.preprocessing, self.manifest.sample.shape
        heard = as_heard(steps, values, recording.rate_hz)
        if heard is not values:
            return heard
        is_grey = values.dtype == np.uint8 and (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 1))
        if is_grey and len(shape) == 3 and shape[2] == 3 and not any(isinstance(step, Grayscale) for step in steps):
            return np.repeat(values.reshape(*values.shape[:2], 1), 3, axis=2)
        return values

    def _answered(self, recording: Recording, values: Array) -> Iterator[Line]:
        watched = self._duplicates is not None and values.ndim in (2, 3) and values.size
        if watched and self._is_duplicate(values):
            self.counts.skipped["near_duplicate"] += 1
            yield from ({**line, "input": recording.name, "repeated": True} for line in self._last_lines)
            return
        cleaned = clean(self.manifest.cleaning, values, recording.times)
        if cleaned.repaired:
            self.counts.repaired.update(cleaned.repaired)
        if self.observer is not None:
            for reason in (*cleaned.repaired, *([cleaned.reason] if cleaned.refused else [])):
                self.observer.fault(reason)
        if cleaned.refused:
            yield self._refused(recording.name, cleaned.reason, cleaned.refused)
            return
        truth = recording.label and named(recording.label, self.names)
        if truth != recording.label:
            recording = msgspec.structs.replace(recording, label=truth)
        repaired = {"repaired": cleaned.repaired} if cleaned.repaired else {}
        said = []
        for answer in self.engine().answers(cleaned.values):
            if answer.refused:
                self.counts.refused["window"] += 1
            else:
                self.counts.answered += 1
                if answer.place:
                    self.counts.places[kind_of(answer.place)] += 1
                self.counts.recent.saw(answer.label, answer.sure, answer.milliseconds)
                if truth and answer.label is not None:
                    self.counts.recent.labelled += 1
                    self.counts.recent.right += answer.label == truth
                if self.observer is not None:
                    self.observer.saw(recording, answer)
            line = {"input": recording.name, **answer.said(), **repaired}
            if watched:
                said.append(line)
            yield line
        if watched:
            self._last_image, self._last_lines = thumbnail(values), said

    def _is_duplicate(self, values: Array) -> bool:
        image, last = thumbnail(values), self._last_image
        assert self._duplicates is not None
        return last is not None and last.shape == image.shape and self._duplicates.same_as(image, last)

    def _refused(self, name: str, reason: str, text: str) -> Line:
        self.counts.refused[reason] += 1
        return {"input": name, "refused": text}
