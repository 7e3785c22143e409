"""Decides the role of each column of a table: label, group (who was recorded), channel; or the reason for no role."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_pipeline.data.datasets.reading import Column

LABEL_NAMES = ("label", "class", "activity", "target", "category", "labels", "state", "y")
GROUP_NAMES = (
    "subject", "user", "person", "participant", "patient", "subject_id", "user_id", "person_id", "participant_id", "patient_id",
    "device", "device_id", "machine", "machine_id", "group", "session", "session_id", "recording", "trial", "id",
)  # fmt: skip
UNIT = r"[ _]?[\[(]?(s|ms|us|µs|ns|sec|secs|seconds|utc|stamp|unix|local|of day)?[\])]?"
CLOCK = re.compile(
    r"(unnamed: \d+|index|idx|row|t|ts|epoch|date|datetime|clock|.*timestamp.*"
    rf"|((unix|sys|system|local|utc|elapsed|sample)[ _])?time{UNIT})"
)
MAX_LABELS = 50
MAX_MISSING = 0.5  # of a channel's values
NUMBERED = re.compile(r"(.*?)(\d+)")
WIDE = 64  # with so many numbered columns, a row is a whole example
SHORT_RUNS = 3.0  # the least mean number of rows with one label, if rows are points in time
EVEN, RISING = 0.5, 0.95
FORECAST = re.compile(r".*(next|future|forecast|ahead|horizon|t\+\d|lead).*")


@dataclass(frozen=True)
class Roles:
    """The roles of the columns. `left_out`: column → why it is no channel. `problems`: errors that the user must correct."""

    label: str = ""
    group: str = ""
    channels: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def of_columns(table: dict[str, Column], label: str = "") -> Roles:
    """The role of every column. `label`: the name of the label's column."""
    groups = [name for wanted in GROUP_NAMES for name in table if name.lower() == wanted and name != label]
    left: dict[str, str] = {}
    problems: list[str] = []
    group = ""
    for name in groups:
        why = _no_group(name, table[name])
        if why or group:
            left[name] = why or f"no channel: says who or what was recorded, like {group}"
        else:
            group = name
    channels = []
    for name, column in table.items():
        if name in (label, group) or name in left:
            continue
        why = _no_channel(name, column, table.get(label))
        if why.startswith("!"):
            problems.append(why[1:])
        elif why:
            left[name] = why
        else:
            channels.append(name)
    return Roles(label, group, tuple(channels), left, tuple(problems))


def _no_group(name: str, column: Column) -> str:
    """Why this column does not say who was recorded, although its name suggests it; '' if it does."""
    texts = column.texts
    kinds, runs = len(np.unique(texts)), int((texts[1:] != texts[:-1]).sum()) + 1
    if kinds < 2:
        return f"no channel, and no groups: {texts[0]!s:.40} in every row"
    if kinds * 8 > len(texts) or runs * 4 > len(texts):
        return f"no channel, and no groups: {kinds} values in {len(texts)} rows, so it only numbers rows"
    return ""


def _no_channel(name: str, column: Column, label: Column | None) -> str:
    """Why the column is no channel, with ! before an error that the user must correct; '' if it is a channel."""
    lower = name.lower().strip()
    if CLOCK.fullmatch(lower):
        return "no channel: a time or a row's number, by its name"
    if lower in LABEL_NAMES and len(lower) > 1:
        return "no channel: another label, by its name"
    odd, missing = column.odd, float(column.missing.mean())
    if len(odd) + int(column.missing.sum()) == len(column):
        return "no channel: empty" if not len(odd) else "no channel: text"
    if len(odd) * 2 > len(column):
        return "no channel: text"
    if len(odd):
        shown = str(column.texts[odd[0]])[:40]
        return f"!row {odd[0] + 2}, column {name!r}: {shown!r} is neither a number nor a missing value ({len(odd)} such cells)"
    if missing > MAX_MISSING:
        return f"no channel: {missing:.0%} of its values are missing"
    if is_clock(column.numbers):
        return "no channel: rises evenly from row to row, like a time or a row's number"
    if label is not None and _tells(column.numbers, label.texts):
        return "no channel: one number for each label, so it is the label again"
    return ""


def is_clock(numbers: Array) -> bool:
    """Whether values rise by about the same step from row to row, except for a few restarts."""
    if len(numbers) < 8 or not np.isfinite(numbers).all():
        return False
    steps = np.diff(numbers)
    usual = float(np.median(steps))
    return usual > 0 and float((np.abs(steps - usual) <= EVEN * usual).mean()) >= RISING


def _tells(numbers: Array, labels: Array) -> bool:
    """Whether each label has exactly one number, different from the others'."""
    kinds = np.unique(labels)
    if len(labels) < 4 * len(kinds) or not 2 <= len(kinds) <= MAX_LABELS or len(np.unique(numbers)) != len(kinds):
        return False
    return all(len(np.unique(numbers[labels == kind])) == 1 for kind in kinds)


def label_of(table: dict[str, Column]) -> str:
    """The name of the label's column; '' if there is none. A column y beside x or z is an axis, no label."""
    lower = {name.lower().strip(): name for name in reversed(list(table))}
    return next((lower[name] for name in LABEL_NAMES if name in lower and not (name == "y" and {"x", "z"} & set(lower))), "")


def is_quantity(column: Column, task: str) -> bool:
    """Whether the label is a quantity: by `task`, or because it has fractions, or too many values for classes."""
    if task:
        return task == "regression"
    numbers = column.numbers[~column.missing]
    if len(column.odd) or not len(numbers):
        return False
    return bool((numbers % 1 != 0).any()) or len(np.unique(numbers)) > MAX_LABELS


def row_is_an_example(table: dict[str, Column], found: Roles, estimates: bool) -> str:
    """Why a row is a whole example and no point in time; '' if it can be a point in time."""
    numbered = [match[1] for name in found.channels if (match := NUMBERED.fullmatch(name))]
    longest = max((numbered.count(stem) for stem in set(numbered)), default=0)
    if longest >= WIDE:
        return f"{longest} of its columns are numbered, such as {found.channels[0]} and {found.channels[-1]}"
    if estimates or found.label not in table:
        return ""
    labels = table[found.label].texts
    runs = int((labels[1:] != labels[:-1]).sum()) + 1
    if len(labels) >= 8 and len(labels) / runs < SHORT_RUNS:
        return f"column {found.label!r} changes its value every {len(labels) / runs:.1f} rows"
    return ""
