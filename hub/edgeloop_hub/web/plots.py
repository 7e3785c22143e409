"""Line plots as SVG shapes on one time axis, drawn on the server: no script, no picture library."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeloop_hub.time_text import when

WIDTH, HEIGHT = 600.0, 80.0
BINS = 240  # places of a plot
TICKS = 4
HEADROOM = 1.08  # above the highest value
Points = Sequence[tuple[float, float | None]]
Ranges = Sequence[tuple[float, float, float]]  # (time, lowest, highest)


@dataclass(frozen=True)
class Axis:
    """The time that all plots of a page share. `releases`: when another version began to run, in words."""

    begin: float
    end: float
    releases: list[tuple[float, str]] = field(default_factory=list)

    def x(self, at: float) -> float:
        return (at - self.begin) / (self.end - self.begin) * WIDTH

    @property
    def marks(self) -> list[tuple[str, str]]:
        """(x, words) of each release that lies on the axis."""
        return [(f"{self.x(at):.1f}", words) for at, words in self.releases if self.begin <= at <= self.end]

    @property
    def ticks(self) -> list[str]:
        """Times below the plots, evenly spaced."""
        days = self.end - self.begin > 2 * 86400
        texts = [when(self.begin + (self.end - self.begin) * i / TICKS) for i in range(TICKS + 1)]
        return [text[5:10] if days else text[11:16] for text in texts]


@dataclass(frozen=True)
class Plot:
    """`lines`: points of SVG polylines, a new one after each gap. `limit`: (y, words) of a line that should not be crossed.

    `ranges`: an SVG path, from the lowest to the highest value of times of which the lines have the mean.
    """

    title: str
    lines: list[str]
    low: str
    high: str
    last: str
    limit: tuple[str, str] | None = None
    ranges: str = ""

    @property
    def text(self) -> str:
        """The same in words, for people who hear the page."""
        beyond = f"; limit {self.limit[1]}" if self.limit else ""
        return f"{self.title}: last {self.last}, between {self.low} and {self.high}{beyond}"


def plot(
    title: str, axis: Axis, points: Points, limit: tuple[float, str] | None = None, floor: float | None = 0.0,
    top: float | None = None, ranges: Ranges = (),
) -> Plot | None:  # fmt: skip
    """The mean of each bin of time. None: no value at all.

    `limit`: a value, and words for it; it is always on the plot. `floor`: of the scale; None: the lowest value that there is.
    `top`: of the scale, where several plots share one; higher values lie on it.
    """
    binned = _binned(axis, points)
    if not binned:
        return None
    extremes = [(axis.x(at), least, most) for at, least, most in ranges if axis.begin <= at <= axis.end]
    values = [*(value for _, value in binned), *(value for _, least, most in extremes for value in (least, most))]
    low = min(values) if floor is None else min(floor, *values)
    high = top if top is not None else max([*values, limit[0]] if limit else values)
    span = (high - low) * HEADROOM or 1.0

    def y(value: float) -> str:
        return f"{HEIGHT - (min(value, high) - low) / span * HEIGHT:.1f}"

    lines: list[list[str]] = []
    places = [place for place, _ in binned]
    for number, (place, value) in enumerate(binned):
        if not number or place - places[number - 1] > 3 * _usual_step(places[max(0, number - 5) : number + 5]):
            lines.append([])
        lines[-1].append(f"{(place + 0.5) * WIDTH / BINS:.1f},{y(value)}")
    path = " ".join(f"M{x:.1f},{y(most)}V{y(least)}" for x, least, most in extremes)
    drawn = (y(limit[0]), limit[1]) if limit else None
    low_text, high_text, last = _figure(min(values)), _figure(max(values)), _figure(binned[-1][1])
    return Plot(title, [_line(line) for line in lines], low_text, high_text, last, drawn, path)


def _binned(axis: Axis, points: Points) -> list[tuple[int, float]]:
    """(bin, mean of its values), in the order of time."""
    sums: dict[int, tuple[float, int]] = {}
    for at, value in points:
        if value is not None and axis.begin <= at <= axis.end:
            place = min(BINS - 1, int((at - axis.begin) / (axis.end - axis.begin) * BINS))
            total, count = sums.get(place, (0.0, 0))
            sums[place] = (total + value, count + 1)
    return [(place, total / count) for place, (total, count) in sorted(sums.items())]


def _usual_step(places: list[int]) -> int:
    """Bins between two of these, most of the time: of the nearest ones, as old reports are an hour or a day apart."""
    steps = sorted(later - earlier for earlier, later in itertools.pairwise(places))
    return steps[len(steps) // 2] if steps else 1


def _line(points: list[str]) -> str:
    """A single point is drawn as a short line."""
    if len(points) == 1:
        x, y = points[0].split(",")
        points = [f"{max(0.0, float(x) - 1.5):.1f},{y}", f"{float(x) + 1.5:.1f},{y}"]
    return " ".join(points)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if 100 <= abs(value) < 1e9 else f"{value:.3g}"
