"""How many numbers the lines of a series have: what most of them have, so that one spoiled line costs itself and no other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

AGREEING_FIRST, AGREEING_LATER = 3, 5  # lines that agree, before a width holds; and before another one does
MAX_HELD = 16


class Line(NamedTuple):
    """One line of numbers, with its name."""

    name: str
    time: float | None
    values: list[float]


@dataclass
class WidthFilter:
    """Holds lines back until it is sure of them: the first ones, and those of another width than the series has."""

    width: int | None = None
    _held: list[Line] = field(default_factory=list)

    def add(self, line: Line) -> tuple[list[Line], list[Line]]:
        """The lines that belong to the series from now on, in order, and those that do not."""
        if len(line.values) == self.width:
            others, self._held = self._held, []
            return [line], others
        self._held.append(line)
        width, count = Counter(len(each.values) for each in self._held).most_common(1)[0]
        if count >= (AGREEING_FIRST if self.width is None else AGREEING_LATER):
            return self._settled(width)
        if len(self._held) > MAX_HELD:
            return [], [self._held.pop(0)]
        return [], []

    def flush(self) -> tuple[list[Line], list[Line]]:
        """No more lines come for now: the same, by the lines that there were."""
        if self._held and self.width is None:
            found = self._settled(Counter(len(each.values) for each in self._held).most_common(1)[0][0])
            self.width = None  # of so few lines that is no knowledge
            return found
        others, self._held = self._held, []
        return [], others

    def _settled(self, width: int) -> tuple[list[Line], list[Line]]:
        self.width, held, self._held = width, self._held, []
        return [each for each in held if len(each.values) == width], [each for each in held if len(each.values) != width]
