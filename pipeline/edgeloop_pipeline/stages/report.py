"""The stage `report`: writes one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.stage import Base
from edgeloop_pipeline.results.files import ReportResult


@dataclass(frozen=True)
class Report(Base):
    """Writes a self-contained page: no scripts, no fonts, no downloads."""

    gives = ("report",)
    libraries = ("jinja2", "matplotlib")
    uses_target = True
    uses_machine = True
    uses_history = True

    def __call__(self, inputs: Inputs, out: Path) -> ReportResult:
        from edgeloop_pipeline.report.page import render

        (out / "report.html").write_text(render(inputs, inputs.entries), encoding="utf-8")
        return ReportResult("report.html")
