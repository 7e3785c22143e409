"""Writes the sweep's page."""

from __future__ import annotations

from pathlib import Path

from edgeloop_pipeline.cache.store import write as write_file
from edgeloop_pipeline.report import plots
from edgeloop_pipeline.report.rendering import page
from edgeloop_pipeline.sweep.study import FOLDER, Study, SweepTrial
from edgeloop_pipeline.tasks.registry import metric_of


def write(study: Study, trials: list[SweepTrial]) -> Path:
    """Write the page beside the study's storage. Returns its path."""
    head = study.recipe.head
    points = [(t.number, t.point.accuracy, t.point.latency, float(t.point.bytes), t.best) for t in trials if t.point]
    text = page(
        "sweep.html.j2", name=head.name, path=str(study.recipe.path), trials=trials, metric=metric_of(head),
        pareto=plots.pareto(points, metric_of(head)),
    )  # fmt: skip
    path = study.runs / FOLDER / f"{study.name}.html"
    write_file(path, text.encode())
    return path
