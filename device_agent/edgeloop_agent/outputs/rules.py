"""Which answers an output sends: of these labels, above a confidence, only changes, not too often. Pure."""

from __future__ import annotations

from collections import Counter

import msgspec

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.config import Output

__all__ = ["Rules"]

State = tuple[object, ...]
LISTS = {"boxes": "score", "masks": "confidence", "labels": "score"}  # fields of a line with labels, and how sure each is


class Rules:
    """The rules of one output, with what it sent last."""

    def __init__(self, settings: Output) -> None:
        self._settings, self._labels = settings, frozenset(settings.labels)
        self._plain = not (settings.only_changes or settings.every_seconds or settings.min_confidence or self._labels)
        self._sent: State | None = None
        self._sent_at = float("-inf")

    def chosen(self, line: AnswerLine, now: float) -> AnswerLine | None:
        """The line with what is left of it by the rules; None: it is not sent. `now`: seconds of a clock that never steps back.

        A change that comes too soon is sent once the time has passed, if it still holds then.
        """
        if self._plain or line.refused is not None:
            return line
        left = self._left(line)
        state = None if left is None else _state(left)
        if self._settings.only_changes:
            if state == self._sent or (state is None and self._sent is None):
                return None
        elif state is None:
            return None
        if now < self._sent_at + self._settings.every_seconds:
            return None
        self._sent, self._sent_at = state, now
        return left if left is not None else msgspec.structs.replace(line, **_emptied(line))

    def _left(self, line: AnswerLine) -> AnswerLine | None:
        """None where labels or confidence leave nothing."""
        least, labels = self._settings.min_confidence, self._labels
        for name, score in LISTS.items():
            if (found := getattr(line, name)) is not None:
                kept = [one for one in found if getattr(one, score) >= least and (not labels or one.label in labels)]
                return msgspec.structs.replace(line, **{name: kept}) if kept or not (labels or least) else None
        if line.label is None:
            return line
        confidence = None if line.probabilities is None else line.probabilities.get(line.label)
        if (labels and line.label not in labels) or (confidence is not None and confidence < least):
            return None
        return line


def _emptied(line: AnswerLine) -> dict[str, object]:
    """What is sent when nothing is left of an answer, but the one before said something."""
    name = next((name for name in LISTS if getattr(line, name) is not None), "")
    return {name: []} if name else {"label": "", "probabilities": None, "score": None}


def _state(line: AnswerLine) -> State:
    """What counts as a change: labels and how many boxes of each, lines and zones; values of quantities and tensors as they are."""
    lists = (getattr(line, name) for name in LISTS)
    found = tuple(None if some is None else tuple(sorted(Counter(one.label for one in some).items())) for some in lists)
    values = None if line.values is None else tuple(line.values.items())
    tensors = None if line.tensors is None else msgspec.json.encode(line.tensors)
    counted = tuple(map(repr, (*(line.lines or ()), *(line.zones or ()))))
    return (line.label, found, values, tensors, counted)
