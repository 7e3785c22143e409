"""Compares two runs: what changed in settings, code and data, and their figures side by side."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edgeloop_contract.manifest import Estimate
from edgeloop_pipeline.run.record import Record, RecordedFile

ALL_DATA = "all data files"


class Change(msgspec.Struct, frozen=True):
    """One difference. None: absent on that side. Settings are JSON texts, code and data digests."""

    what: str
    before: str | None
    after: str | None


class NetworkFigures(msgspec.Struct, frozen=True):
    """The accuracy of the float network after a stage, on the test set of each run."""

    stage: str
    before: Estimate | None
    after: Estimate | None


class FileFigures(msgspec.Struct, frozen=True):
    """The figures of a shipped file in each run."""

    name: str
    before: RecordedFile | None
    after: RecordedFile | None


class ComparedRun(msgspec.Struct, frozen=True):
    """One side of a comparison. `at`: seconds since 1970."""

    name: str
    version: int
    at: float
    by: str
    machine: str
    error: str | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The differences between two runs. `metric`: the name of the accuracy; both names if they differ."""

    before: ComparedRun
    after: ComparedRun
    metric: str
    settings: list[Change]
    code: list[Change]
    data: list[Change]
    libraries: list[Change]
    networks: list[NetworkFigures]
    files: list[FileFigures]


def compare(before: Record, after: Record) -> Comparison:
    """The comparison of two runs, of one recipe or of two."""
    data = _changes(before.data, after.data)
    if before.data_sha256 != after.data_sha256 and not (before.data and after.data):  # more files than a record names
        counts = (f"{r.data_files} files, {r.data_sha256}" for r in (before, after))
        data = [Change(ALL_DATA, *counts)]
    return Comparison(
        before=_side(before), after=_side(after),
        metric=before.metric if before.metric == after.metric else f"{before.metric} → {after.metric}",
        settings=_changes(_settings(before), _settings(after)),
        code=[*_changes(before.project, after.project), *_changes(before.code, after.code)],
        data=data, libraries=_changes(before.libraries, after.libraries),
        networks=[
            NetworkFigures(name, before.networks.get(name), after.networks.get(name))
            for name in _union(before.networks, after.networks)
        ],
        files=[FileFigures(name, before.files.get(name), after.files.get(name)) for name in _union(before.files, after.files)],
    )  # fmt: skip


def _side(record: Record) -> ComparedRun:
    return ComparedRun(record.name, record.version, record.at, record.by, record.machine, record.error)


def _settings(record: Record) -> dict[str, str]:
    of_stages = {f"{stage.name}.{key}": text for stage in record.stages for key, text in stage.settings.items()}
    return record.recipe | {f"stages.{stage.name}": "on" for stage in record.stages} | of_stages


def _changes(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    return [
        Change(name, before.get(name), after.get(name)) for name in _union(before, after) if before.get(name) != after.get(name)
    ]


def _union(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """The names of both, in order; a name that only `after` has comes last."""
    return list(dict.fromkeys([*before, *after]))
