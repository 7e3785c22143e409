"""The record of a run: its settings, code, data and figures, small enough to be kept so that two runs can be compared."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from edgeloop_contract.manifest import Estimate
from edgeloop_pipeline.cache.digests import digest
from edgeloop_pipeline.cache.store import Entry
from edgeloop_pipeline.results.files import ProfileResult, VerifyResult
from edgeloop_pipeline.run.result import RunResult

MAX_DATA_FILES = 500  # whose digests are kept one by one; of more files, only the digest of all is kept


class RecordedStage(msgspec.Struct, frozen=True):
    """A finished stage: its cache key and its duration. `settings`: name → JSON text."""

    name: str
    key: str
    seconds: float
    cached: bool
    settings: dict[str, str]


class RecordedFile(msgspec.Struct, frozen=True):
    """The figures of one shipped file on the test set. `latency_us`: p50 where the run was measured."""

    accuracy: Estimate | None
    bytes: int | None
    latency_us: float | None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Digests by name: `code` (modules), `project` (its own files), `data` ({} if there are more than 500 files).

    `recipe`: the recipe's keys besides its stages, as JSON text. `error`: why the run ended early, or the floors that it missed.
    """

    name: str
    version: int
    started: float  # seconds since 1970
    at: float  # when it ended
    by: str  # the command that ran it: run, retrain
    metric: str  # the name of the accuracy
    error: str | None
    failures: list[str]
    recipe: dict[str, str]
    stages: list[RecordedStage]
    code: dict[str, str]
    project: dict[str, str]
    data: dict[str, str]
    data_files: int
    data_sha256: str
    libraries: dict[str, str]
    machine: str
    networks: dict[str, Estimate]  # the float network after each stage
    files: dict[str, RecordedFile]

    @property
    def keys(self) -> list[str]:
        return [stage.key for stage in self.stages]


def record_of(result: RunResult, error: Exception | None, by: str) -> Record:
    """The record of a run that has ended."""
    entries, head = result.entries, result.recipe.head
    verified, profiled = result.result("verify", VerifyResult), result.result("profile", ProfileResult)
    data, networks = _named(entries, "data "), verified.stages if verified else {}
    files = {}
    for name, file in (verified.variants if verified else {}).items():
        cost = profiled.variants.get(name) if profiled else None
        files[name] = RecordedFile(file.accuracy, file.bytes, cost.latency_us_p50 if cost else None)
    return Record(
        name=head.name, version=head.version, started=result.started, at=time.time(), by=by,
        metric=verified.metric if verified else "accuracy",
        error=str(error) if error else None, failures=list(result.failures),
        recipe=_named(entries, "recipe ") | {f"target.{key}": text for key, text in _named(entries, "target ").items()},
        stages=[
            RecordedStage(e.stage, e.key, e.seconds, e.stage in result.cached, _named([e], "setting ")) for e in entries
        ],
        code=_named(entries, "code "), project=_named(entries, "project file "),
        data=data if len(data) <= MAX_DATA_FILES else {}, data_files=len(data), data_sha256=digest(data),
        libraries=_named(entries, "library "), machine=profiled.machine if profiled else "",
        networks={e.stage: networks[e.stage] for e in entries if e.stage in networks}, files=files,
    )  # fmt: skip


def _named(entries: Iterable[Entry], prefix: str) -> dict[str, str]:
    """The parts of the stages' keys that begin with `prefix`, without it."""
    return {name.removeprefix(prefix): text for e in entries for name, text in e.parts.items() if name.startswith(prefix)}
