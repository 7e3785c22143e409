"""What a stage is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.results.read import R, result_of

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
    watch: Callable[[str, int, float, int], None] = field(default=lambda *_: None)  # training/callbacks.Watcher

    def result(self, stage: str, kind: type[R]) -> R | None:
        """What `stage` reported; None when it did not run. Raises UsageError when that is no `kind`."""
        return result_of(self.entries, stage, kind)

    def required(self, stage: str, kind: type[R]) -> R:
        """What `stage` reported. Raises UsageError when it did not run, or reported something else."""
        result = self.result(stage, kind)
        if result is None:
            raise UsageError(f"this stage needs {stage} before it; add it to the recipe")
        return result

    def holding(self, file: str) -> list[tuple[str, Path]]:
        """Name and folder of every stage before that wrote a file of this name, in order."""
        return [(e.stage, f) for e, f in zip(self.entries, self.folders, strict=True) if file in e.files]
