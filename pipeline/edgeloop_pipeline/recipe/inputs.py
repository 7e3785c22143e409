"""What a stage is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.project import Project

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What a stage may read. `artefacts`: name → folder, from the nearest stage before that gives it."""

    project: Project
    artefacts: dict[str, Path]
    entries: list[Entry]  # every stage before
    folders: list[Path]  # and where its files are
    scratch: Path  # survives a kill; for checkpoints
    log: Callable[[str], None] = field(default=lambda _: None)

    def metrics(self, stage: str) -> Metrics:
        """What `stage` reported ({} when it did not run)."""
        return next((e.metrics for e in reversed(self.entries) if e.stage == stage), {})

    def holding(self, file: str) -> list[tuple[str, Path]]:
        """Name and folder of every stage before that wrote a file of this name, in order."""
        return [(e.stage, f) for e, f in zip(self.entries, self.folders, strict=True) if file in e.files]
