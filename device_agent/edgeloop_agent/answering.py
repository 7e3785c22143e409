"""Turns a recording into answer lines: cleaned, prepared, inferred; or the reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from edgeloop_agent.answers import canonical_label
from edgeloop_agent.box_answers import Box
from edgeloop_agent.engine import Answer, Engine
from edgeloop_agent.fitting import fitted
from edgeloop_agent.label_answers import Label
from edgeloop_agent.mask_answers import Mask
from edgeloop_agent.metrics import Counts, place_kind
from edgeloop_agent.regions import in_whole
from edgeloop_agent.sources import Recording, Wanted
from edgeloop_contract.arrays import Array
from edgeloop_contract.cleaning import NearDuplicate, clean, thumbnail
from edgeloop_contract.errors import DataError, DeviceError
from edgeloop_contract.manifest import Manifest, Regression
from edgeloop_contract.preprocessing import as_bytes, takes_texts
from edgeloop_contract.tasks import names_of

if TYPE_CHECKING:
    from edgeloop_agent.chains import Chains
    from edgeloop_agent.tracking.counting import LineCount, ZoneCount
    from edgeloop_agent.tracking.following import Following


class AnswerLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the output: a window's answer, or why there is none. Fields as in `engine.Answer`; `tensors` as lists, or arrays.

    `repaired`: values that cleaning repaired, by step. `repeated`: the recording is a near duplicate; these are the last answers.
    `lines`, `zones`: what was counted until now, where frames are followed. `parts`: milliseconds by model, where chains are.
    `captured_at`: when a live source took it, in UTC.
    """

    input: str
    window: int | None = None
    label: str | None = None
    probabilities: dict[str, float] | None = None
    values: dict[str, float] | None = None
    score: float | None = None
    tensors: dict[str, Any] | None = None
    milliseconds: float | None = None
    place: str | None = None
    refused: str | None = None
    repaired: dict[str, int] | None = None
    repeated: bool = False
    labels: list[Label] | None = None
    boxes: list[Box] | None = None
    masks: list[Mask] | None = None
    lines: list[LineCount] | None = None
    zones: list[ZoneCount] | None = None
    parts: dict[str, float] | None = None
    captured_at: str | None = None


class Observer(Protocol):
    """Sees every answer, and every fault that cleaning reports."""

    def observe(self, recording: Recording, answer: Answer) -> None: ...
    def observe_fault(self, reason: str) -> None: ...


class Answering:
    """One model's answers. `engine` is called for each recording, because an update may have replaced the model.

    `as_lists`: tensors are given as JSON takes them; else as the arrays that they are. `following`: follows the boxes of recordings
    that come in order; `chains`: of models that answer crops of the boxes.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Callable[[], Engine],
        counts: Counts,
        observer: Observer | None = None,
        as_lists: bool = True,
        following: Following | None = None,
        chains: Chains | None = None,
    ) -> None:
        self.manifest, self.engine, self.counts, self.observer, self.as_lists = manifest, engine, counts, observer, as_lists
        self.following, self.chains = following, chains
        self._steps, self._shape = manifest.preprocessing, manifest.sample.shape
        self._wanted = {entry.name: takes_texts(entry.preprocessing) for entry in manifest.inputs}
        self.failures = 0  # of the runtime, in a row
        self.names = [] if isinstance(manifest.task, Regression) else names_of(manifest.task)
        self._duplicates = next((s for s in manifest.cleaning if isinstance(s, NearDuplicate)), None)
        self._last_image: Array | None = None
        self._last_lines: list[AnswerLine] = []

    def lines(self, recording: Recording) -> Iterator[AnswerLine]:
        """One line for each window, or one that says why there is none. Never raises for the content of a recording."""
        if recording.captured is None:
            yield from self._lines(recording)
            return
        at = datetime.fromtimestamp(time.time() - time.monotonic() + recording.captured, timezone.utc)
        captured_at = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for line in self._lines(recording):
            yield msgspec.structs.replace(line, captured_at=captured_at)

    def _lines(self, recording: Recording) -> Iterator[AnswerLine]:
        if recording.by_input is not None and len(self._wanted) > 1:
            yield from self._rows(recording, recording.by_input)
            return
        try:
            values = self._chosen(recording)
            if values is None and recording.inputs is None:
                yield self._refused(recording.name, "unreadable", recording.refused)
                return
            answered = False
            if values is not None:
                lines = self._answered(recording, fitted(self._steps, self._shape, values, recording.rate_hz))
            else:  # several inputs: cleaning knows one array
                inputs = recording.inputs or {}
                lines = (self._seen(recording, answer, {}, recording.label) for answer in self.engine().answers(inputs))
            for line in lines:
                answered = True
                yield line
            self.failures = 0
            if not answered:
                yield self._refused(
                    recording.name,
                    "does_not_fit",
                    "no sample in it" if values is None else f"no sample in it (shape {values.shape})",
                )
        except DeviceError as error:
            self.failures += 1
            yield self._refused(recording.name, "runtime_failed", str(error))
        except DataError as error:
            yield self._refused(recording.name, "does_not_fit", str(error))
        except Exception as error:  # arithmetic on unforeseen values: only this recording is lost
            yield self._refused(recording.name, "does_not_fit", f"{type(error).__name__}: {error}")

    def _rows(self, recording: Recording, rows: Callable[[Wanted], Iterator[Recording]]) -> Iterator[AnswerLine]:
        """The lines of a table's rows, or of an object: each is a recording of its own."""
        none = True
        try:
            for row in rows(self._wanted):
                none = False
                same = {"key": recording.key, "stream": recording.stream, "captured": recording.captured}
                yield from self._lines(msgspec.structs.replace(row, **same))
            if none:
                yield self._refused(recording.name, "does_not_fit", "no row in it")
        except DataError as error:
            yield self._refused(recording.name, "unreadable", str(error))

    def _chosen(self, recording: Recording) -> Array | None:
        """The recording's values; a text's bytes; of a table with a header line, the columns that the model was trained on."""
        if len(self._wanted) > 1 and recording.text is not None:
            raise DataError(f"a text alone; the model takes {', '.join(self._wanted)}: send each by its name")
        if (recording.text is None) is takes_texts(self._steps) and recording.is_read and recording.inputs is None:
            given, wanted = ("an array", "texts") if recording.text is None else ("a text", "arrays")
            raise DataError(f"{given}; this model takes {wanted}")
        if recording.text is not None:
            return as_bytes(recording.text)
        columns = recording.by_name(self.manifest.channels) if recording.by_name is not None and self.manifest.channels else None
        if recording.region is not None and recording.values is not None:
            left, top, right, bottom = recording.region
            return recording.values[top:bottom, left:right]
        return recording.values if columns is None else columns

    def _answered(self, recording: Recording, values: Array) -> Iterator[AnswerLine]:
        watched = self._duplicates is not None and values.ndim in (2, 3) and values.size
        if watched and self._is_duplicate(values):
            self.counts.skipped["near_duplicate"] += 1
            for line in self._last_lines:
                yield msgspec.structs.replace(line, input=recording.name, repeated=True)
            return
        cleaned = clean(self.manifest.cleaning, values, recording.times)
        if cleaned.repaired:
            self.counts.repaired.update(cleaned.repaired)
        if self.observer is not None:
            for reason in (*cleaned.repaired, *([cleaned.reason] if cleaned.refused else [])):
                self.observer.observe_fault(reason)
        if cleaned.refused:
            yield self._refused(recording.name, cleaned.reason, cleaned.refused)
            return
        truth = recording.label and canonical_label(recording.label, self.names)
        if truth != recording.label:
            recording = msgspec.structs.replace(recording, label=truth)
        lines = []
        for answer in self.engine().answers(cleaned.values):
            line = self._seen(recording, answer, cleaned.repaired, truth)
            if watched:
                lines.append(line)
            yield line
        if watched:
            self._last_image, self._last_lines = thumbnail(values), lines

    def _seen(self, recording: Recording, answer: Answer, repaired: dict[str, int], truth: str) -> AnswerLine:
        """The answer's line, after it was counted and observed."""
        self._count(answer, truth)
        line = _line(recording.name, answer, repaired, self.as_lists)
        if recording.region is not None and recording.values is not None:
            boxes, masks = in_whole(line.boxes, line.masks, recording.region, recording.values.shape[:2])
            line = msgspec.structs.replace(line, boxes=boxes, masks=masks)
        try:
            if line.boxes is not None and (self.following is not None or self.chains is not None):
                line = self._continued(recording, answer, line, line.boxes)
                if self.following is not None and self.following.lost:
                    answer = msgspec.structs.replace(answer, lost=True)
        finally:  # a model further down a chain may fail
            if self.observer is not None and not answer.refused:
                self.observer.observe(recording, answer)
        return line

    def _continued(self, recording: Recording, answer: Answer, line: AnswerLine, boxes: list[Box]) -> AnswerLine:
        """With what models of a chain say of the boxes, and with their tracks."""
        picture = (recording.inputs or {})[self.manifest.inputs[0].name] if recording.values is None else recording.values
        if isinstance(picture, str):
            raise DataError("the first input is a text; boxes are of pictures")
        if self.chains is not None:
            boxes, parts = self.chains.answered(boxes, picture)
            line = msgspec.structs.replace(line, boxes=boxes, parts={self.manifest.name: answer.milliseconds, **parts})
        return line if self.following is None else self._followed(self.following, recording, line, picture)

    def _followed(self, following: Following, recording: Recording, line: AnswerLine, picture: Array) -> AnswerLine:
        tracked = following.follow(line.boxes or [], picture.shape[0], picture.shape[1], recording.stream)
        counted = following.counted
        return msgspec.structs.replace(line, boxes=tracked, lines=counted.lines or None, zones=counted.zones or None)

    def _count(self, answer: Answer, truth: str) -> None:
        """`truth`: the recording's label, "" where it is not known."""
        counts = self.counts
        if answer.refused:
            counts.refused["window"] += 1
            return
        counts.answered += 1
        if answer.place:
            counts.places[place_kind(answer.place)] += 1
        counts.recent.observe(answer.label, answer.confidence, answer.milliseconds)
        if truth and answer.label is not None:
            counts.recent.labelled += 1
            counts.recent.right += answer.label == truth

    def _is_duplicate(self, values: Array) -> bool:
        image, last = thumbnail(values), self._last_image
        assert self._duplicates is not None
        return last is not None and last.shape == image.shape and self._duplicates.same_as(image, last)

    def _refused(self, name: str, reason: str, text: str) -> AnswerLine:
        self.counts.refused[reason] += 1
        return AnswerLine(name, refused=text)


def _line(name: str, answer: Answer, repaired: dict[str, int], as_lists: bool) -> AnswerLine:
    tensors: dict[str, Any] | None = answer.tensors
    if tensors is not None and as_lists:
        tensors = {tensor: values.tolist() for tensor, values in tensors.items()}
    return AnswerLine(
        name, answer.window, answer.label, answer.probabilities, answer.values, answer.score,
        tensors, None if answer.refused else answer.milliseconds, answer.place, answer.refused, repaired or None,
        labels=answer.labels, boxes=answer.boxes, masks=answer.masks,
    )  # fmt: skip
