"""A recipe's run from Python: stages, figures, report and bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import GateError
from edgeloop_pipeline.cache.store import Entry, Store
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe import user_code
from edgeloop_pipeline.run.runner import Listener, RunResult
from edgeloop_pipeline.run.runner import run as run_recipe

__all__ = ["Event", "Run", "StageResult", "run"]


@dataclass(frozen=True)
class Event:
    """Something that happened. `kind`: "cached", "starts", "log", "epoch" or "done"; `text`: the reason or the line."""

    stage: str
    kind: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.stage}: {self.kind}{f' {self.text}' if self.text else ''}"


@dataclass(frozen=True)
class StageResult:
    """A stage that has finished. `metrics`: what it reported; `folder`: its files; `cached`: it did not run again."""

    name: str
    metrics: dict[str, Any]
    folder: Path
    seconds: float
    cached: bool


@dataclass(frozen=True)
class Run:
    """A run. `report` and `bundle` are None where these stages were left out, or a floor was missed: `failures` says which.

    `folder`: where its results are shown, with links to them.
    """

    name: str
    stages: dict[str, StageResult]
    failures: list[str]
    report: Path | None
    bundle: Path | None
    folder: Path | None

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """By stage."""
        return {name: stage.metrics for name, stage in self.stages.items()}


class _Teller(Listener):
    def __init__(self, tell: Callable[[Event], object]) -> None:
        self._tell = tell

    def cached(self, name: str, entry: Entry) -> None:
        self._tell(Event(name, "cached"))

    def starts(self, name: str, reasons: list[str]) -> None:
        self._tell(Event(name, "starts", "; ".join(reasons)))

    def log(self, name: str, text: str) -> None:
        self._tell(Event(name, "log", text))

    def done(self, name: str, entry: Entry) -> None:
        self._tell(Event(name, "done", f"{entry.seconds:.1f} s"))

    def epoch(self, name: str, epoch: int, metric: float, parameters: int) -> None:
        self._tell(Event(name, "epoch", f"{epoch}: {metric:.4f}"))


def run(
    recipe: str | os.PathLike[str],
    settings: Mapping[str, Any] | None = None,
    *,
    runs: str | os.PathLike[str] = "runs",
    on_event: Callable[[Event], object] | None = None,
) -> Run:
    """Run a recipe (a file, a project folder, or a reference project's name) as `edgeloop run` does, with its cache.

    `settings`: changes such as {"train.epochs": 3}; a stage's name with False leaves it out. `on_event`: called with each `Event`;
    an exception from it ends the run. A missed floor is no exception: `failures` says it, and there is no bundle. Ctrl-C raises
    KeyboardInterrupt; stages that finished stay in the cache, and a training goes on from its last checkpoint. Python files of the
    project are read again at each call. Raises UsageError, DataError or ModelError as the command reports them.
    """
    user_code.forget_changed()
    changes = [recipes.Override(name, value) for name, value in (settings or {}).items()]
    loaded = recipes.load(recipes.find(os.fspath(recipe)), changes)
    store = Store(Path(runs))
    result = RunResult(loaded, store)
    try:
        run_recipe(loaded, store, _Teller(on_event) if on_event else Listener(), result)
    except GateError:
        if not result.failures:
            raise
    stages = {
        entry.stage: StageResult(
            entry.stage, dict(entry.metrics), store.folder(entry.stage, entry.key), entry.seconds, entry.stage in result.cached
        )
        for entry in result.entries
    }
    bundle = None if result.failures else result.shown("package", "bundle")
    return Run(loaded.head.name, stages, list(result.failures), result.shown("report", "report"), bundle, result.folder)
