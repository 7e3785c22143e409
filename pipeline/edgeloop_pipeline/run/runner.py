"""Runs a recipe's stages: reuses cached ones, runs the others, and explains why."""

from __future__ import annotations

import errno
import resource
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgeloop_contract.errors import EdgeloopError, GateError, StorageError, UsageError
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.cache.store import Entry, Store
from edgeloop_pipeline.recipe.inputs import Inputs
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.recipe.recipe import Recipe
from edgeloop_pipeline.recipe.stage_table import build
from edgeloop_pipeline.run import cache_key
from edgeloop_pipeline.run.kept_runs import results_folder
from edgeloop_pipeline.run.listener import Listener
from edgeloop_pipeline.run.result import RunResult
from edgeloop_pipeline.run.run_log import RunLog
from edgeloop_pipeline.system import interrupt, malloc

__all__ = ["Listener", "PlannedStage", "RunResult", "follow", "plan_next", "run", "why"]

Keep = Literal["show", "history", "no"]
FOLLOW_SECONDS = 0.2
BLOCKED_BY_FAILURE = ("cascade", "package")  # a run that missed a floor makes no bundle, but still a report


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a recipe with its key. `entry`: its cached result, if there is one."""

    name: str
    stage: Any
    parts: dict[str, str]
    key: str
    entry: Entry | None


def plan_next(project: Project, store: Store, name: str, settings: dict[str, Any], before: list[Entry]) -> PlannedStage:
    """The stage with its key, from the entries of the stages before it."""
    stage = build(name, settings, project.recipe.folder)
    sources = {artefact: _giver(project, artefact, before) for artefact in stage.needs}
    found = cache_key.parts(project, name, stage, sources, before)
    key = cache_key.key(name, found)
    return PlannedStage(name, stage, found, key, store.find(name, key))


def _giver(project: Project, artefact: str, before: list[Entry]) -> Entry:
    from edgeloop_pipeline.recipe.stage_table import stage_class

    recipe = project.recipe
    return next(e for e in reversed(before) if artefact in stage_class(e.stage, recipe.stages[e.stage], recipe.folder).gives)


def run(recipe: Recipe, store: Store, listener: Listener, result: RunResult | None = None, keep: Keep = "show") -> RunResult:
    """Run every stage. Raises GateError after the report if a floor was missed, and the stages' own errors.

    `result`: gets each stage when it ends, so that a caller can show finished stages even after an error. `keep`: whether the run
    is shown in `RUNS/NAME`, is only kept in the history (retraining), or neither (a part of something else).
    """
    result = result or RunResult(recipe, store)
    log = RunLog(listener)
    with store.lock():
        result.folder = results_folder(store.root, recipe.head.name) if keep == "show" else None
        try:
            _run_stages(recipe, store, log, result)
        except (EdgeloopError, OSError) as error:
            _keep(result, error, log, keep)
            raise
        _keep(result, None, log, keep)
    return result


def _run_stages(recipe: Recipe, store: Store, listener: Listener, result: RunResult) -> None:
    project = Project(recipe)
    for name, settings in recipe.stages.items():
        if result.failures and name in BLOCKED_BY_FAILURE:
            continue
        planned = plan_next(project, store, name, settings, result.entries)
        entry = planned.entry
        if entry is not None:
            listener.cached(name, entry)
            result.cached.add(name)
        else:
            listener.starts(name, why(store, recipe, planned))
            entry = _make(project, store, planned, result.entries, listener)
            listener.done(name, entry)
        store.note(recipe.head.name, entry)
        result.entries.append(entry)
        result.failures += entry.metrics.get("failures", [])
    if result.failures:
        report = result.path("report", "report")
        if report is not None and result.folder is not None:
            report = result.folder / report.name
        seen = f"; see {report}" if report else ""
        raise GateError(f"{recipe.head.name}: " + "; ".join(result.failures) + seen)


def _keep(result: RunResult, error: Exception | None, log: RunLog, keep: Keep) -> None:
    """Keep the run that has ended, beside the cache. If that is impossible, the run's own outcome still counts."""
    if keep == "no":
        return
    from edgeloop_pipeline.run import kept_runs
    from edgeloop_pipeline.run.record import record_of
    from edgeloop_pipeline.run.summary import summary_json, summary_lines

    try:
        said = str(error) if error else None
        lines = [*summary_lines(result), *([said] if said else [])]
        texts = {kept_runs.SUMMARY: summary_json(result, said), kept_runs.LOG: log.text() + "\n".join(lines) + "\n"}
        kept_runs.keep(result, record_of(result, error, "run" if keep == "show" else "retrain"), texts, keep == "show")
    except (OSError, StorageError) as failure:
        result.folder = None
        log.log("results", f"not shown in {result.store.root}: {failure}; the results are in the cache")


def why(store: Store, recipe: Recipe, planned: PlannedStage) -> list[str]:
    """The reasons why the stage has to run; none if it is cached."""
    if planned.entry is not None:
        return []
    last = store.last(recipe.head.name, planned.name)
    if last is None:
        return ["it has not run yet"]
    return cache_key.changes(last.parts, planned.parts) or ["its stored result is missing or damaged"]


def _inputs(project: Project, store: Store, planned: PlannedStage, before: list[Entry], listener: Listener) -> Inputs:
    def log(text: str) -> None:
        listener.log(planned.name, text)
        interrupt.check()

    sources = {a: _giver(project, a, before) for a in planned.stage.needs}
    return Inputs(
        project=project,
        artefacts={a: store.folder(e.stage, e.key) for a, e in sources.items()},
        entries=before,
        folders=[store.folder(e.stage, e.key) for e in before],
        scratch=store.scratch(planned.name, planned.key),
        log=log,
        watch=listener.epoch,
    )


def follow(recipe: Recipe, store: Store) -> None:
    """Run the other training processes: take part in the stages that train together, and wait during the others.

    All processes see the same runs folder. If one fails, the launcher ends them all.
    """
    project = Project(recipe)
    kinds = {name: build(name, settings, recipe.folder) for name, settings in recipe.stages.items()}
    last = max((i for i, stage in enumerate(kinds.values()) if stage.collective), default=-1)
    entries: list[Entry] = []
    for name, settings in list(recipe.stages.items())[: last + 1]:
        planned = plan_next(project, store, name, settings, entries)
        entry = planned.entry
        if entry is None and planned.stage.collective:
            with tempfile.TemporaryDirectory() as out:
                planned.stage(_inputs(project, store, planned, entries, Listener()), Path(out))
        while entry is None:
            time.sleep(FOLLOW_SECONDS)
            entry = store.find(name, planned.key)
        entries.append(entry)


def _called(planned: PlannedStage, inputs: Inputs, out: Path) -> Any:
    """Call the stage. A user's stage can raise anything; its error becomes one sentence."""
    if type(planned.stage).__module__.startswith("edgeloop_pipeline."):
        return planned.stage(inputs, out)
    try:
        return planned.stage(inputs, out)
    except (EdgeloopError, OSError):
        raise
    except Exception as error:  # the user's code can raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({where.filename}, line {where.lineno})"
        raise UsageError(f"stage {planned.name}: {said}; correct your stage") from error


def _make(project: Project, store: Store, planned: PlannedStage, before: list[Entry], listener: Listener) -> Entry:
    name = planned.name
    interrupt.check()
    inputs = _inputs(project, store, planned, before, listener)
    malloc.keep_freed()
    malloc.give_back()
    _forget_peak()
    start = time.perf_counter()
    try:
        with store.writing(name, planned.key) as out:
            metrics = _plain(name, _called(planned, inputs, out))
            files = {p.name: sha256(p) for p in sorted(out.iterdir())}
            seconds = round(time.perf_counter() - start, 3)
            entry = Entry(name, planned.key, planned.parts, metrics, seconds, _peak_bytes(), files)
            store.publish(out, entry)
    except (OSError, RuntimeError) as error:
        # torch and safetensors report a full disk as a RuntimeError that contains the system's text.
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise StorageError(f"{store.root}: the disk is full, in stage {name}; make room and run again: it resumes") from error
        if isinstance(error, PermissionError):
            raise StorageError(f"{error.filename or store.root}: cannot be written; choose another folder with --runs") from error
        raise
    # The stored form: so a cached run and a fresh one pass on equal values.
    stored = store.find(name, planned.key)
    if stored is None:
        raise StorageError(f"{store.root}: stage {name} was stored but cannot be read back; check the disk")
    return stored


def _plain(name: str, metrics: Any) -> dict[str, Any]:
    """A stage's metrics in their stored form. Raises UsageError if a user's stage returns something else."""
    try:
        return msgspec.json.decode(msgspec.json.encode(metrics), type=dict[str, Any])
    except (TypeError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"stage {name}: returned metrics that are not a JSON object ({error}); return a dict of plain values"
        ) from error


def _forget_peak() -> None:
    """Reset the kernel's high-water mark of resident memory, where possible (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
