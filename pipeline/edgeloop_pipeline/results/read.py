"""Reads results of finished stages as structs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from edgeloop_contract.errors import UsageError
from edgeloop_pipeline.cache.store import Entry

R = TypeVar("R", bound=msgspec.Struct)


def result_of(entries: Sequence[Entry], stage: str, kind: type[R]) -> R | None:
    """The newest result of `stage`; None if it did not run. Raises UsageError if a user's stage gives another result."""
    entry = next((e for e in reversed(entries) if e.stage == stage), None)
    if entry is None:
        return None
    try:
        return msgspec.convert(entry.metrics, kind)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"stage {stage}: its result is not a {kind.__name__} ({error}); a stage of your own under this name must return one"
        ) from error


def results_like(entries: Sequence[Entry], kind: type[R]) -> dict[str, R]:
    """Stage → result, for every stage whose result has all fields of `kind`, in order."""
    results = {}
    for entry in entries:
        try:
            results[entry.stage] = msgspec.convert(entry.metrics, kind)
        except msgspec.ValidationError:
            continue  # another kind of result, or a user's stage
    return results
