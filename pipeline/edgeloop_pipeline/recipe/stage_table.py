"""The stages a recipe can list, in their usual order, and how one is found."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.recipe.project import Project, load_object

# Importing one of these modules must not import torch: a cached run only reads their settings.
STAGES = {
    "train": "edgeloop_pipeline.stages.train:Train",
    "budget": "edgeloop_pipeline.stages.budget:Budget",
    "prune": "edgeloop_pipeline.stages.prune:Prune",
    "distill": "edgeloop_pipeline.stages.distill:Distill",
    "quantize": "edgeloop_pipeline.stages.quantize:Quantize",
    "export": "edgeloop_pipeline.stages.export:Export",
    "verify": "edgeloop_pipeline.stages.verify:Verify",
    "profile": "edgeloop_pipeline.stages.profile:Profile",
    "split": "edgeloop_pipeline.stages.split:Split",
    "cascade": "edgeloop_pipeline.stages.cascade:Cascade",
    "package": "edgeloop_pipeline.stages.package:Package",
    "report": "edgeloop_pipeline.stages.report:Report",
}

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


class Stage(Protocol):
    """A frozen dataclass of settings with one call. Files go into `out`; what it returns must be JSON.

    `failures` in the metrics: floors that were missed; the run then ends with exit code 1, after its report.
    """

    needs: ClassVar[tuple[str, ...]]
    gives: ClassVar[tuple[str, ...]]
    libraries: ClassVar[tuple[str, ...]]
    uses_target: ClassVar[bool]
    uses_machine: ClassVar[bool]
    collective: ClassVar[bool]

    def __call__(self, inputs: Inputs, out: Path) -> Metrics: ...


class Base:
    """Defaults for a stage's class-level facts."""

    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version changes the output
    uses_target: ClassVar[bool] = False
    uses_machine: ClassVar[bool] = False  # the output is a measurement of this machine
    collective: ClassVar[bool] = False  # trains: where several processes were started, each calls it
    uses_history: ClassVar[bool] = False  # reads every stage before it, not only what it needs


def stage_class(name: str, settings: dict[str, Any], folder: Path) -> type[Any]:
    """The class behind a stage of a recipe: the user's own `file.py:Class`, else ours."""
    reference = settings.get("stage")
    if reference is None:
        module, _, attribute = STAGES[name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        if not isinstance(reference, str) or ".py:" not in reference:
            raise UsageError(f"{reference!r} is not of the form file.py:Class")
        found = load_object(folder, reference)
        if not (isinstance(found, type) and dataclasses.is_dataclass(found) and issubclass(found, Base)):
            raise UsageError(f"{reference} is not a dataclass derived from edgeloop_pipeline.stages.Base")
    assert isinstance(found, type)
    return found


def build(name: str, settings: dict[str, Any], folder: Path) -> Any:
    """The stage with its settings, converted."""
    kind = stage_class(name, settings, folder)
    return msgspec.convert({k: v for k, v in settings.items() if k != "stage"}, kind)
