"""Samples of a model with several inputs: each input prepared by steps of its own, then all of them in one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeloop_contract.arrays import DTYPES, Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import Prepared, as_recording, prepare
from edgeloop_contract.preprocessing.base import StepBase
from edgeloop_contract.resampling import to_model_rate
from edgeloop_exporters.named_inputs import NamedInput, put_together

__all__ = ["PreparedInput", "prepared_together"]


@dataclass(frozen=True)
class PreparedInput:
    """An input, and the steps that make its sample."""

    entry: NamedInput
    steps: Sequence[StepBase] = ()


def prepared_together(recording: Any, inputs: Sequence[PreparedInput], rate_hz: int | None) -> Prepared:
    """The windows (N, total, 1) of a recording: an array or a text for each input by its name, or that of the only one.

    Raises DataError where an input is missing, or has another shape, type or number of windows than it must have.
    """
    fed = [given for given in inputs if not given.entry.output]
    parts = recording if isinstance(recording, Mapping) else {fed[0].entry.name: recording}
    names = [given.entry.name for given in fed]
    if sorted(parts) != sorted(names):
        raise DataError(f"has {', '.join(sorted(parts))}; the model takes {', '.join(names)}: save an array or a text of each name")
    found = {given.entry.name: _prepared(given, parts[given.entry.name], rate_hz) for given in fed}
    counts = {name: len(part.indices) + len(part.refused) for name, part in found.items()}
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{count} windows of {name}" for name, count in counts.items())
        raise DataError(f"{shown}; all inputs need the same number")
    refused = {window: why for part in found.values() for window, why in part.refused.items()}
    kept = [window for window in range(next(iter(counts.values()))) if window not in refused]
    rows = {name: part.values[[part.indices.index(window) for window in kept]] for name, part in found.items()}
    return Prepared(
        put_together(rows, [given.entry for given in inputs]) if kept else np.zeros((0, 1, 1), np.float32), kept, refused
    )


def _prepared(given: PreparedInput, values: Any, rate_hz: int | None) -> Prepared:
    """The windows of one input, in its own type and shape."""
    entry = given.entry
    recording = as_recording(given.steps, values if isinstance(values, str) else np.asarray(values), entry.name)
    array = to_model_rate(given.steps, recording, rate_hz)
    if not given.steps:
        array = array.reshape(entry.sample_shape) if array.size == entry.size else array
        array = array.astype(np.uint8) if array.dtype == bool else array
    try:
        made = prepare(given.steps, array)
    except DataError as error:
        raise DataError(f"{entry.name}: {error}") from error
    rows = made.values
    if not given.steps and rows.ndim == len(entry.shape) + 2 and rows.shape[-1] == 1:  # numbers in a row are read as a series
        rows = rows[..., 0]
    if len(rows) and tuple(rows.shape[1:]) != entry.sample_shape:
        if int(np.prod(rows.shape[1:])) != entry.size or given.steps:
            raise DataError(f"{entry.name}: a sample has shape {list(rows.shape[1:])}; the model takes {list(entry.sample_shape)}")
        rows = rows.reshape(len(rows), *entry.sample_shape)
    return Prepared(_fitting(rows, entry), made.indices, made.refused)


def _fitting(rows: Array, entry: NamedInput) -> Array:
    """The rows, where the input's type holds them. Raises DataError."""
    if entry.dtype == "float32" or not rows.size:
        return rows
    if entry.dtype == "bool":
        low, high = 0, 1
    else:
        limits = np.iinfo(DTYPES[entry.dtype])
        low, high = int(limits.min), int(limits.max)
    if rows.min() < low or rows.max() > high or (rows % 1 != 0).any():
        between = "" if entry.dtype == "int64" else f" from {low} to {high}"
        raise DataError(f"{entry.name}: takes whole numbers{between} ({entry.dtype})")
    return rows
