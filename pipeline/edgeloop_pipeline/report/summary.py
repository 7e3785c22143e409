"""The stages of a run as rows with metric, size and latency."""

from __future__ import annotations

from dataclasses import dataclass

from edgeloop_contract.manifest import Estimate
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.results.files import ProfileResult, VerifyResult
from edgeloop_pipeline.results.read import result_of


@dataclass(frozen=True)
class SummaryRow:
    """One stage or shipped file. Accuracy on the full test set; None if not measured."""

    name: str
    accuracy: Estimate | None
    size_bytes: int | None
    latency_us: float | None
    seconds: float | None
    peak_bytes: int | None
    shipped: bool = False

    @property
    def accuracy_text(self) -> str:
        return f"{self.accuracy.value:.2%}" if self.accuracy else ""

    @property
    def interval_text(self) -> str:
        return f"{self.accuracy.low:.1%} – {self.accuracy.high:.1%}" if self.accuracy else ""

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


def rows(entries: list[Entry]) -> list[SummaryRow]:
    """The rows: stages in order, and after `export` one per shipped file. Float networks count as plain ONNX files."""
    verified, profiled = result_of(entries, "verify", VerifyResult), result_of(entries, "profile", ProfileResult)
    table = []
    for e in entries:
        accuracy = verified.stages.get(e.stage) if verified else None
        float_file = profiled.stages.get(e.stage) if profiled else None
        size, latency = (float_file.bytes, float_file.cost.latency_us_p50) if float_file else (None, None)
        table.append(SummaryRow(e.stage, accuracy, size, latency, e.seconds, e.peak_bytes))
        if e.stage == "export" and verified:
            for name, file in verified.variants.items():
                cost = profiled.variants.get(name) if profiled else None
                shown = cost.latency_us_p50 if cost else None
                table.append(SummaryRow(f"  {name}", file.accuracy, file.bytes, shown, None, None, True))
    return table
