"""The width of a series: the number of values that most of its lines have, so that one damaged line affects no other."""

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
    """Holds back lines that may not belong to the series: the first ones, and those of another width."""

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
        """As `add`, when no more lines come for now."""
        if self._held and self.width is None:
            settled = self._settled(Counter(len(each.values) for each in self._held).most_common(1)[0][0])
            self.width = None  # so few lines decide nothing for later
            return settled
        others, self._held = self._held, []
        return [], others

    def _settled(self, width: int) -> tuple[list[Line], list[Line]]:
        self.width, held, self._held = width, self._held, []
        return [each for each in held if len(each.values) == width], [each for each in held if len(each.values) != width]
