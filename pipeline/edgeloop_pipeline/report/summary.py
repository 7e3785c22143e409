"""The stages of a run as rows: what each one made of accuracy, size and latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeloop_pipeline.cache.store import Entry


@dataclass(frozen=True)
class Row:
    """One stage or shipped file. Accuracy on the full test set; None where it was not measured."""

    name: str
    accuracy: dict[str, Any] | None
    size_bytes: int | None
    latency_us: float | None
    seconds: float | None
    peak_bytes: int | None
    shipped: bool = False

    @property
    def accuracy_text(self) -> str:
        return f"{self.accuracy['value']:.2%}" if self.accuracy else ""

    @property
    def interval_text(self) -> str:
        return f"{self.accuracy['low']:.1%} – {self.accuracy['high']:.1%}" if self.accuracy else ""

    @property
    def size_text(self) -> str:
        return f"{self.size_bytes / 1000:,.1f} kB" if self.size_bytes else ""

    @property
    def latency_text(self) -> str:
        return f"{self.latency_us:,.0f} µs" if self.latency_us else ""

    @property
    def took_text(self) -> str:
        if self.seconds is None:
            return ""
        peak = f", {self.peak_bytes / 1e6:,.0f} MB" if self.peak_bytes else ""
        return f"{self.seconds:,.1f} s{peak}"


def rows(entries: list[Entry]) -> list[Row]:
    """Stages in order; after `export`, one row per shipped file. Float stages: as plain ONNX."""
    metrics = {e.stage: e.metrics for e in entries}
    verified, profiled = metrics.get("verify", {}), metrics.get("profile", {})
    accuracies, costs = verified.get("stages", {}), profiled.get("stages", {})
    found = []
    for e in entries:
        cost = costs.get(e.stage, {})
        latency = cost.get("cost", {}).get("latency_us_p50")
        found.append(Row(e.stage, accuracies.get(e.stage), cost.get("bytes"), latency, e.seconds, e.peak_bytes))
        if e.stage == "export":
            for name, variant in verified.get("variants", {}).items():
                latency = profiled.get("variants", {}).get(name, {}).get("latency_us_p50")
                found.append(Row(f"  {name}", variant["accuracy"], variant["bytes"], latency, None, None, True))
    return found
