"""The stages that have finished in a run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from edgeloop_pipeline.cache.store import Entry, Store
from edgeloop_pipeline.recipe.recipe import Recipe
from edgeloop_pipeline.results.read import R, result_of


@dataclass
class RunResult:
    """The stages that have finished in a run, and the floors that they miss. `folder`: where its results are shown."""

    recipe: Recipe
    store: Store
    entries: list[Entry] = field(default_factory=list)
    cached: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    folder: Path | None = None
    started: float = field(default_factory=time.time)

    def result(self, stage: str, kind: type[R]) -> R | None:
        """The result of `stage`; None if it did not run, or if a user's stage under that name reports something else."""
        return result_of(self.entries, stage, kind)

    def path(self, stage: str, field: str) -> Path | None:
        """The file that `stage` names in a field of its result, if it ran."""
        entry = next((e for e in self.entries if e.stage == stage and field in e.metrics), None)
        return self.store.folder(stage, entry.key) / entry.metrics[field] if entry else None

    def shown(self, stage: str, field: str) -> Path | None:
        """The same file where a person looks for it: in `folder`, if it is there."""
        path = self.path(stage, field)
        if path is None or self.folder is None or not (self.folder / path.name).exists():
            return path
        return self.folder / path.name
