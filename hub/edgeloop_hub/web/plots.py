"""Small line plots as SVG shapes, drawn on the server: no script, no picture library."""

from __future__ import annotations

from dataclasses import dataclass

from edgeloop_contract.messages import DriftReport, Heartbeat

WIDTH, HEIGHT = 320.0, 60.0
MIB = 1 << 20


@dataclass(frozen=True)
class Plot:
    """`points`: of an SVG polyline. `text`: the same in words, for people who hear the page."""

    title: str
    points: str
    low: str
    high: str
    last: str

    @property
    def text(self) -> str:
        return f"{self.title}: last {self.last}, between {self.low} and {self.high}"


def of(beats: list[tuple[float, Heartbeat]]) -> list[Plot]:
    """One for each figure that was ever reported, over the time of the reports."""
    figures = {
        "p95 latency, µs": [(at, b.latency_us_p95) for at, b in beats],
        "answers a minute": [(at, b.answered / b.seconds * 60 if b.seconds >= 1 else None) for at, b in beats],
        "mean confidence": [(at, b.confidence.mean if b.confidence.count else None) for at, b in beats],
        "memory, MiB": [(at, b.memory_bytes / MIB if b.memory_bytes is not None else None) for at, b in beats],
        "temperature, °C": [(at, b.celsius) for at, b in beats],
        "drift": [(at, b.drift) for at, b in beats],
    }
    plots = []
    for title, values in figures.items():
        known = [(at, value) for at, value in values if value is not None]
        if known:
            plots.append(_plot(title, known))
    return plots


def of_drift(reports: list[tuple[float, DriftReport]]) -> Plot | None:
    """The drift score over time."""
    return _plot("drift score", [(at, report.score) for at, report in reports]) if reports else None


def _plot(title: str, values: list[tuple[float, float]]) -> Plot:
    times, numbers = [at for at, _ in values], [value for _, value in values]
    low, high = min(numbers), max(numbers)
    span, length = (high - low) or 1.0, (times[-1] - times[0]) or 1.0
    points = [f"{(at - times[0]) / length * WIDTH:.1f},{HEIGHT - (value - low) / span * HEIGHT:.1f}" for at, value in values]
    return Plot(title, " ".join(points), f"{low:.4g}", f"{high:.4g}", f"{numbers[-1]:.4g}")
