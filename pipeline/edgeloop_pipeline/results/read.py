"""Reads results of finished stages as structs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.store import Entry

R = TypeVar("R", bound=msgspec.Struct)


def result_of(entries: Sequence[Entry], stage: str, kind: type[R]) -> R | None:
    """The newest result of `stage`; None if it did not run, or if a user's stage under that name reports something else."""
    return results_like([e for e in entries if e.stage == stage], kind).get(stage)


def required(entries: Sequence[Entry], stage: str, kind: type[R]) -> R:
    """The newest result of `stage`. Raises UsageError if it did not run, or if its result is another one."""
    result = result_of(entries, stage, kind)
    if result is None:
        raise UsageError(
            f"stage {stage}: there is no {kind.__name__} of it; add the stage, or let your own stage under this name return one"
        )
    return result


def results_like(entries: Sequence[Entry], kind: type[R]) -> dict[str, R]:
    """Stage → result, for every stage whose result has all fields of `kind`, in order."""
    results = {}
    for entry in entries:
        try:
            results[entry.stage] = msgspec.convert(entry.metrics, kind)
        except msgspec.ValidationError:
            continue  # another kind of result, or a user's stage
    return results
