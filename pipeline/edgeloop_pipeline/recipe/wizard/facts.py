"""Collects facts about every file of a folder: reads each once, several at a time, and keeps only the facts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloop_agent.sources.readers import TABLES, read
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.reading import Column, read_table
from edgeloop_pipeline.recipe.wizard.roles import is_clock
from edgeloop_pipeline.recipe.wizard.series import Seen


@dataclass(frozen=True)
class Facts:
    """The facts about one file. `problem`: why it cannot be used. `shape`: the shape of its values."""

    path: Path
    problem: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    rate_hz: int = 0
    seen: Seen | None = None
    clock: bool = False  # whether its first column rises evenly
    span: tuple[int, int] = (0, 255)  # of a picture: the darkest and the brightest count


def facts_of(paths: Sequence[Path], kind: str, channels: tuple[str, ...] = ()) -> list[Facts]:
    """The facts about every file. `channels`: the columns of tables with a header."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda path: _facts(path, kind, channels), paths))


def _facts(path: Path, kind: str, channels: tuple[str, ...]) -> Facts:
    found = read(path)
    values = found.values
    if channels and found.by_name is not None:
        try:
            values = found.by_name(channels)
        except DataError as error:
            return Facts(path, str(error))
        if values is None:
            return Facts(path, f"no column is called {', '.join(channels)}")
    if values is None:
        return Facts(path, found.refused)
    if not values.size:
        return Facts(path, f"it is empty (shape {values.shape})")
    if kind == "series":
        if values.dtype.kind not in "fiu" or values.ndim > 2:
            return Facts(path, f"{values.dtype} of shape {values.shape}; a recording is numbers, (points, channels)")
        values = values[:, None] if values.ndim == 1 else values
        return Facts(path, shape=values.shape, dtype=str(values.dtype), seen=Seen.of([values]), clock=is_clock(values[:, 0]))
    span = (int(values.min()), int(values.max())) if kind == "pictures" else (0, 255)
    return Facts(path, shape=values.shape, dtype=str(values.dtype), rate_hz=found.rate_hz or 0, span=span)


def header_of(paths: Sequence[Path]) -> dict[str, Column]:
    """The columns of the first table with a header line; () if there is none."""
    for path in paths:
        if path.suffix.lower() in TABLES:
            try:
                return read_table(path)
            except DataError:
                continue
    return {}


def shape_problems(facts: Sequence[Facts], root: Path) -> list[str]:
    """The problems of series whose number of channels or type differs from most."""
    problems = []
    widths = [fact.shape[1] for fact in facts]
    usual = max(sorted(set(widths)), key=widths.count)
    problems += [
        f"{fact.path.relative_to(root)}: {width} channels, most files have {usual}"
        for fact, width in zip(facts, widths, strict=True) if width != usual
    ]  # fmt: skip
    counts = [fact for fact in facts if fact.dtype == "int16"]
    if counts and len(counts) < len(facts):
        problems.append(
            f"{len(counts)} files hold int16, which edgeloop takes as raw counts, and {len(facts) - len(counts)} other types"
            f" ({counts[0].path.name} and {next(f for f in facts if f.dtype != 'int16').path.name}); save all as one type"
        )
    return problems


def middle(numbers: Sequence[int]) -> int:
    return int(np.median(numbers))
