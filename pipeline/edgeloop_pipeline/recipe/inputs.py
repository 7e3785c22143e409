"""The inputs of a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.results.read import R, required, result_of

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Everything that a stage may read. `artefacts`: name → folder, from the nearest earlier stage that gives it."""

    project: Project
    artefacts: dict[str, Path]
    entries: list[Entry]  # of every stage before
    folders: list[Path]  # the folder of each entry's files
    scratch: Path  # survives a kill; for checkpoints
    log: Callable[[str], None] = field(default=lambda _: None)
    watch: Callable[[str, int, float, int], None] = field(default=lambda *_: None)  # training/callbacks.Watcher

    def result(self, stage: str, kind: type[R]) -> R | None:
        """The result of `stage`; None if it did not run, or if a user's stage under that name reports something else."""
        return result_of(self.entries, stage, kind)

    def required(self, stage: str, kind: type[R]) -> R:
        """The result of `stage`. Raises UsageError if there is none of this kind."""
        return required(self.entries, stage, kind)

    def holding(self, file: str) -> list[tuple[str, Path]]:
        """The name and folder of every earlier stage that wrote a file of this name, in order."""
        return [(e.stage, f) for e, f in zip(self.entries, self.folders, strict=True) if file in e.files]
