"""What `edgeloop clean` would free: entries of the cache that no newest run uses, and what killed runs left behind."""

from __future__ import annotations

import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Set
from pathlib import Path

import msgspec

from edgeloop_pipeline.cache.store import DONE, Store

DAY = 86400.0
CLOCK_SECONDS = 1.0  # times of files are coarse
AGES_DAYS = (1.0, 7.0, 30.0)
DEBRIS = "half-written"
UNFINISHED = "unfinished"


class Item(msgspec.Struct, frozen=True):
    """One folder of the cache. `stage`: its stage; half-written for what a kill left. `why`: why it stays; "": it can go."""

    path: str
    stage: str
    bytes: int
    days: float
    why: str


class StageUse(msgspec.Struct, frozen=True):
    """The folders of one stage. `free_by_age`: the bytes that can go, under a day old, under a week, under 30 days, older."""

    stage: str
    kept: int
    kept_bytes: int
    free: int
    free_bytes: int
    free_by_age: list[int]


def disk_use(store: Store, in_use: Set[str], older_than_days: float = 0.0, unfinished: bool = False) -> list[Item]:
    """Every folder of the cache and of unfinished stages. `in_use`: names of entries that stay.

    `unfinished`: the checkpoints of interrupted stages can go too; the next run then cannot resume them.
    """
    now = time.time()
    items: list[Item | None] = []
    for folder in _folders(store.root / "cache"):
        partial = folder.name.startswith(".")
        why = "in use by the newest run" if folder.name in in_use else ""
        items.append(_item(folder, DEBRIS if partial else _stage(folder), now, why, 0.0 if partial else older_than_days))
    for folder in _folders(store.root / "work"):
        why = "" if unfinished else "the next run resumes it"
        items.append(_item(folder, f"{UNFINISHED} {_stage(folder)}", now, why, older_than_days))
    return [item for item in items if item is not None]


def noted_keys(store: Store, started: dict[str, float]) -> set[str]:
    """The names of the entries of the last run of each recipe, also of a run that was killed.

    `started`: recipe → when its newest kept run began, in seconds since 1970. An older note is of a stage that the recipe lost.
    """
    found = set()
    for note in (store.root / "last").glob("*/*"):
        if note.stat().st_mtime > started.get(note.parent.name, 0.0) - CLOCK_SECONDS:
            found.add(f"{note.name}-{note.read_text().strip()}")
    return found


def by_stage(items: list[Item]) -> list[StageUse]:
    """The sums of each stage, most bytes to free first."""
    table = []
    for stage in dict.fromkeys(item.stage for item in items):
        kept = [item for item in items if item.stage == stage and item.why]
        free = [item for item in items if item.stage == stage and not item.why]
        ages = [0] * (len(AGES_DAYS) + 1)
        for item in free:
            ages[bisect_right(AGES_DAYS, item.days)] += item.bytes
        table.append(StageUse(stage, len(kept), sum(i.bytes for i in kept), len(free), sum(ages), ages))
    return sorted(table, key=lambda row: (-row.free_bytes, row.stage))


def free(store: Store, items: list[Item]) -> int:
    """Remove the items that can go; the bytes that were freed. The caller holds the lock of the runs folder."""
    freed = 0
    for item in items:
        if item.why:
            continue
        path = Path(item.path)
        gone = path.with_name(f".gone-{path.name}") if not path.name.startswith(".") else path
        if gone != path:
            os.replace(path, gone)  # at once: a kill leaves no half entry
        shutil.rmtree(gone)
        freed += item.bytes
    return freed


def _folders(parent: Path) -> list[Path]:
    return sorted(p for p in parent.iterdir() if p.is_dir() and not p.is_symlink()) if parent.is_dir() else []


def _stage(folder: Path) -> str:
    return folder.name.rpartition("-")[0] or folder.name


def _item(folder: Path, stage: str, now: float, why: str, older_than_days: float) -> Item | None:
    """The folder's size and age; None if a run that works at the same time has just removed it."""
    done = folder / DONE
    try:
        days = max(0.0, now - (done if done.is_file() else folder).stat().st_mtime) / DAY
        size = sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    except FileNotFoundError:
        return None
    if not why and days < older_than_days:
        why = f"younger than {older_than_days:g} days"
    return Item(str(folder), stage, size, round(days, 2), why)
