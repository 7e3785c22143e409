"""The text of `edgeloop compare` and `edgeloop clean`."""

from __future__ import annotations

import time
from pathlib import Path

from edgeloop_contract.manifest import Estimate
from edgeloop_pipeline.cache.disk_use import StageUse
from edgeloop_pipeline.run.comparison import Change, ComparedRun, Comparison, FileFigures

DIGEST, SHOWN = 64, 12
MAX_CHANGES = 20
AGES = ("under a day", "under a week", "under 30 days", "older")


def comparison_text(found: Comparison, names: tuple[str, str]) -> str:
    """Two runs side by side. `names`: as the person named them."""
    lines = [_side_text(names[0], found.before), _side_text(names[1], found.after)]
    for title, changes in (
        ("settings", found.settings), ("code", found.code), ("data", found.data), ("libraries", found.libraries)
    ):  # fmt: skip
        lines += _changes_text(title, changes)
    if found.before.machine != found.after.machine:
        lines.append(f"machine: {found.before.machine or 'not measured'} → {found.after.machine or 'not measured'}")
    lines += _figures_text(found)
    if found.data:
        lines.append("the data differ, so the accuracies may be of different test sets")
    return "\n".join(lines)


def _side_text(name: str, side: ComparedRun) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(side.at))
    by = "" if side.by == "run" else f", by {side.by}"
    return f"{name}: version {side.version}, {when}{by}" + (f"; {side.error}" if side.error else "")


def _changes_text(title: str, changes: list[Change]) -> list[str]:
    if not changes:
        return [f"{title}: no change"]
    shown = [f"  {c.what}: {_value(c.before)} → {_value(c.after)}" for c in changes[:MAX_CHANGES]]
    more = [f"  … and {len(changes) - MAX_CHANGES} more (--json has all)"] if len(changes) > MAX_CHANGES else []
    return [f"{title}:", *shown, *more]


def _value(text: str | None) -> str:
    if text is None:
        return "absent"
    return " ".join(word[:SHOWN] + "…" if len(word) == DIGEST else word for word in text.split()) or "''"


def _figures_text(found: Comparison) -> list[str]:
    lines = [f"{found.metric} on the test set (95 % interval):"]
    width = max((len(row.stage) for row in found.networks), default=0)
    lines += [
        f"  {row.stage:{width}}  {_accuracy(row.before)}  →  {_accuracy(row.after)}{_difference(row.before, row.after)}"
        for row in found.networks
    ]
    for row in found.files:
        lines += _file_text(row)
    return lines if len(lines) > 1 else [f"{found.metric}: not measured in these runs"]


def _file_text(row: FileFigures) -> list[str]:
    before, after = row.before, row.after
    accuracies = (before.accuracy if before else None, after.accuracy if after else None)
    sizes = (before.bytes if before else None, after.bytes if after else None)
    latencies = (before.latency_us if before else None, after.latency_us if after else None)
    return [
        f"  {row.name}",
        f"    accuracy  {_accuracy(accuracies[0])}  →  {_accuracy(accuracies[1])}{_difference(*accuracies)}",
        f"    bytes     {_number(sizes[0], ',')}  →  {_number(sizes[1], ',')}{_ratio(*sizes)}",
        f"    p50 µs    {_number(latencies[0], ',.1f')}  →  {_number(latencies[1], ',.1f')}{_ratio(*latencies)}",
    ]


def _accuracy(one: Estimate | None) -> str:
    return f"{one.value:.2%} ({one.low:.1%} to {one.high:.1%}, {one.samples} samples)" if one else "–"


def _difference(before: Estimate | None, after: Estimate | None) -> str:
    return f"  {100 * (after.value - before.value):+.2f} points" if before and after else ""


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _ratio(before: float | None, after: float | None) -> str:
    return f"  ×{after / before:.2f}" if before and after and before != after else ""


def clean_text(runs: Path, table: list[StageUse], freed: int | None) -> str:
    """What can go, by stage. `freed`: the bytes that were freed; None: nothing was removed."""
    width = max((len(row.stage) for row in table), default=5)
    ages = "".join(f"  {title:>14}" for title in AGES)
    lines = [f"{'stage':{width}}  {'stays':>22}  {'can go':>22}{ages}"]
    for row in table:
        by_age = "".join(f"  {size:12,} B" if size else f"  {'–':>14}" for size in row.free_by_age) if row.free else ""
        lines.append(f"{row.stage:{width}}  {_counted(row.kept, row.kept_bytes)}  {_counted(row.free, row.free_bytes)}{by_age}")
    if freed is not None:
        lines.append(f"{runs}: {freed:,} bytes freed")
    elif total := sum(row.free_bytes for row in table):
        lines.append(f"{runs}: {total:,} bytes can go; nothing is removed yet: edgeloop clean --runs {runs} --yes")
    else:
        lines.append(f"{runs}: nothing to free")
    return "\n".join(line.rstrip() for line in lines)


def _counted(count: int, size: int) -> str:
    return f"{count:4} {size:>15,} B" if count else f"{'–':>22}"
