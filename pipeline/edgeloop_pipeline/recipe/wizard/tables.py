"""Examines tables and plans the project for them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.reading import Column, read_table, table_files
from edgeloop_pipeline.data.datasets.tables import Cut, Piece, Table, Values
from edgeloop_pipeline.recipe.wizard import plan as plans
from edgeloop_pipeline.recipe.wizard import roles, series
from edgeloop_pipeline.recipe.wizard.folders import NORMAL_NAMES, series_plan
from edgeloop_pipeline.recipe.wizard.plan import ProjectPlan, refuse

MAX_UNITS_NAMED = 60
STRETCHES = 7  # stretches of the rarest class
MIN_STRETCH, MAX_STRETCH = 16, 128
VARIES = 0.1  # share of a quantity's variance within a sample, from which on its mean does not describe it
MAX_GAP = 64


def look_at_table(path: Path, task: str) -> ProjectPlan:
    """Examine a table and return the plan. Raises DataError that lists every problem."""
    if task == "anomaly":
        raise DataError(f"{path}: the task anomaly needs folders of recordings, one called {NORMAL_NAMES[0]}")
    table, apart = _merged(path)
    label = roles.label_of(table)
    if not label:
        names = roles.LABEL_NAMES
        raise DataError(
            f"{path}: no column is called {', '.join(names[:-1])} or {names[-1]}; rename the label's column, or sort the files into"
            f" one folder for each class; its columns: {', '.join(table)[:300]}"
        )
    estimates = roles.is_quantity(table[label], task)
    found = roles.of_columns(table, label)
    problems = list(found.problems)
    distinct = np.unique(table[label].texts[~table[label].nameless])
    why = roles.row_is_an_example(table, found, estimates)
    if why:
        problems.append(
            f"a row seems to be a whole example, not a point in time: {why}; a table's row is one point in time, its columns what"
            " was measured then: save each example as a .npy or CSV file (a row a point) in a folder for its class, and give these"
            " folders"
        )
    elif len(distinct) > roles.MAX_LABELS and not estimates:
        problems.append(f"column {label!r} has {len(distinct)} values, too many for classes; give the column with classes")
    if not found.channels and not found.problems:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(found.left_out.items())[:10])
        problems.append(f"no column of numbers beside {label!r} ({why or 'there is none'}); sensor values are needed")
    if len(distinct) < 2 and not estimates:
        problems.append(f"column {label!r} has {len(distinct)} value; there must be two classes or more")
    refuse(path, problems)
    plan = _estimating(path, table, found) if estimates else _classifying(path, table, found)
    says = [*plan.says, *apart, *found.left_out.items()]
    return replace(plan, path=path, says=tuple(says))


def _merged(path: Path) -> tuple[dict[str, Column], list[tuple[str, str]]]:
    """The common columns of all files, with the files' rows after each other; and the texts about the other columns.

    Raises DataError that lists every problem.
    """
    tables, problems = [], []
    files = table_files(path)
    for file in files:
        try:
            tables.append(read_table(file))
        except DataError as error:
            problems.append(str(error))
    refuse(path, problems)
    common = [name for name in tables[0] if all(name in table for table in tables)]
    everywhere = dict.fromkeys(name for table in tables for name in table)
    apart = [(name, "no channel: not in every file") for name in everywhere if name not in common]
    twice = [name for name in everywhere if (stem := name.rpartition(".")[0]) in common and name[len(stem) + 1 :].isdigit()]
    apart += [(name, f"another column called {name.rpartition('.')[0]}") for name in twice]
    made = {}
    for name in common:
        parts = [table[name] for table in tables]
        numbers = None if any(p.found is None for p in parts) else np.concatenate([p.numbers for p in parts])
        made[name] = Column(name, np.concatenate([part.texts for part in parts]), numbers)
    return made, [("files", f"{len(files)} tables, joined by rows"), *apart] if len(files) > 1 else apart


def _classifying(path: Path, table: dict[str, Column], found: roles.Roles) -> ProjectPlan:
    plain = Table(path, found.label, found.channels, max_gap=MAX_GAP)
    tries = [replace(plain, group=found.group)] if found.group else []
    rarest = _rows_of_rarest(table[found.label])
    stretch = int(np.clip(rarest // STRETCHES, MIN_STRETCH, MAX_STRETCH))
    tries += [plain, replace(plain, stretch=stretch)]
    refused: list[str] = []
    for made in tries:
        cut = made.cut()
        try:
            sides = made.sides(cut.pieces)
        except DataError as error:
            refused.append(str(error).removeprefix(f"{path}: "))
            continue
        return _table_plan(made, found, cut, sides, refused)
    raise DataError(f"{path}: {refused[-1]}" + (f" (nor by {found.group}: {refused[0]})" if found.group else ""))


def _rows_of_rarest(column: Column) -> int:
    return int(np.unique(column.texts[~column.nameless], return_counts=True)[1].min())


def _table_plan(made: Table, found: roles.Roles, cut: Cut, sides: list[str], refused: list[str]) -> ProjectPlan:
    pieces = cut.pieces
    lengths = [len(piece.values) for piece in pieces]
    seen = series.Seen.all([series.Seen.of([piece.values]) for piece in pieces])
    labels, units = [piece.label for piece in pieces], [piece.unit for piece in pieces]
    classes = sorted(set(labels))
    plan = series_plan(lengths, seen, found.channels, len(classes), sides.count("train"))
    says = [
        ("understood", f"a table, one row per point in time, classes in column {found.label!r}"),
        ("classes", plans.counted(labels) + " recordings"),
        *plans.split_lines(labels, sides, units, made.group),
        ("split by", _how(made, found, units, refused)),
        *plan.says,
        *plans.left_out(dict(cut.left_out)),
    ]
    how = (
        f"split by {made.group}"
        if made.group
        else f"split by {made.unit_name}: add a column subject that says who or what was recorded"
    )
    return replace(
        plan, seen=f"{plan.seen}; {how}", says=tuple(says), kind="Table", distinct=tuple(classes),
        arguments=_arguments(made, units, sides, cut),
    )  # fmt: skip


def _how(made: Table, found: roles.Roles, units: list[str], refused: list[str]) -> str:
    if made.group:
        return f"{made.group}, {len(set(units))} of them; none is in two splits"
    because = f" ({refused[-1].split('; class')[0]})" if refused else ""
    if made.stretch:
        return f"stretches of {made.stretch} rows, which are neighbours: the accuracy will be too optimistic{because}"
    hint = "" if found.group else "; add a column called subject or device that says who or what was recorded"
    return f"recording, a run of rows with one label: its neighbours train, so the accuracy may be too optimistic{hint}{because}"


def _arguments(made: Table, units: list[str], sides: list[str], cut: Cut) -> dict[str, object]:
    """The arguments for data.py; they name the members of each split if these are few."""
    found: dict[str, object] = {"label": made.label, "channels": made.channels, "group": made.group, "stretch": made.stretch}
    given = any(piece.split for piece in cut.pieces)
    if made.group and not given and len(set(units)) <= MAX_UNITS_NAMED:
        for split in ("validation", "test"):
            found[split] = tuple(sorted({unit for unit, side in zip(units, sides, strict=True) if side == split}))
    if made.max_gap and any("misses more than" in why and count for why, count in cut.left_out.items()):
        found["max_gap"] = made.max_gap
    return found


def _estimating(path: Path, table: dict[str, Column], found: roles.Roles) -> ProjectPlan:
    whole = Values(path, found.label, found.channels, found.group, max_gap=MAX_GAP, length=1)
    runs = [len(list(rows)) for rows in _runs(table, found.group)]
    stretched = sum(runs) // (STRETCHES * 5)  # long enough for some stretches of ten overlapping samples
    length = max(series.SHORTEST, min(64, int(np.median(runs)) // 4, 64 if found.group else stretched))
    made = replace(whole, length=length)
    at, why = _where_in_sample(made, found.label)
    made = replace(made, at=at)
    short = replace(made, length=max(series.SHORTEST, min(length, stretched)), stretch=1)
    tries, refused = [made, short] if found.group else [made], []
    for made in tries:
        cut = made.cut()
        try:
            sides = made.sides(cut.pieces)
        except DataError as error:
            refused.append(str(error).removeprefix(f"{path}: "))
            continue
        return _values_plan(made, found, cut, sides, why, refused)
    raise DataError(f"{path}: {refused[0]}")


def _runs(table: dict[str, Column], group: str) -> list[range]:
    rows = len(next(iter(table.values())))
    if not group:
        return [range(rows)]
    texts = table[group].texts
    ends = [0, *(np.flatnonzero(texts[1:] != texts[:-1]) + 1).tolist(), rows]
    return [range(a, b) for a, b in pairwise(ends)]


def _where_in_sample(made: Values, label: str) -> tuple[Literal["mean", "last"], str]:
    """Whether a sample's value is the mean over its rows or the last one, and the reason."""
    if roles.FORECAST.fullmatch(label.lower()):
        return "last", "its value in a sample's last row, because its name says that it lies in the future"
    ends = np.array([piece.truth for piece in replace(made, at="last").cut().pieces])
    means = np.array([piece.truth for piece in made.cut().pieces])
    if len(ends) and float(np.mean((ends - means) ** 2)) > VARIES * float(np.var(means)) > 0:
        return "last", "its value in a sample's last row, because it changes within a sample"
    return "mean", "its mean over a sample's rows"


def _values_plan(made: Values, found: roles.Roles, cut: Cut, sides: list[str], why: str, refused: list[str]) -> ProjectPlan:
    pieces: list[Piece] = cut.pieces
    seen = series.Seen.all([series.Seen.of([piece.values]) for piece in pieces])
    plan = series_plan([made.length] * len(pieces), seen, found.channels, 1, sides.count("train"))
    truth = np.array([piece.truth for piece in pieces])
    units = [piece.unit for piece in pieces]
    by = f"{made.group}" if made.group and not made.stretch else "stretches of rows"
    too_much = "" if by == made.group else ", which are neighbours: the accuracy will be too optimistic"
    because = f" ({refused[0]})" if refused else ""
    says = [
        ("understood", f"a table, one row per point in time; the model estimates {found.label!r}: {why}"),
        (
            "quantity",
            f"{truth.min():.6g} to {truth.max():.6g} in {len(pieces)} samples of {made.length} rows, which overlap by half",
        ),
        *plans.split_lines([""] * len(pieces), sides, units, made.group if not too_much else ""),
        ("split by", f"{by}{too_much}{because}"),
        *plan.says,
        *plans.left_out(dict(cut.left_out)),
    ]
    arguments = _arguments(made if not too_much else replace(made, group=""), units, sides, cut)
    arguments |= {"group": made.group, "length": made.length, "at": made.at}
    return replace(
        plan, task="regression", seen=f"{len(found.channels)} channels and {found.label!r} to estimate, split by {by}",
        says=tuple(says), kind="Values", distinct=(found.label,), arguments=arguments,
    )  # fmt: skip
