"""Caches decoded and preprocessed samples on disk, memory-mapped: later stages and runs start at once."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_exporters.named_inputs import NamedInput
from edgeloop_exporters.named_outputs import Output
from edgeloop_pipeline.cache.user_folder import cache_folder
from edgeloop_pipeline.data.types import PreparedSplits, Samples

NAMES = ("train", "validation", "test")
FACTS = "facts.json"
WORTH_SECONDS = 1.0  # samples that take less time are not cached


class _Facts(msgspec.Struct, frozen=True):
    """What `PreparedSplits` has beside its samples and what the recipe says."""

    labels: tuple[str, ...]
    task: str
    channels: tuple[str, ...]
    outputs: tuple[Output, ...]
    notes: tuple[str, ...]
    points: tuple[str, ...] = ()
    inputs: tuple[NamedInput, ...] = ()


def folder_of(key: str) -> Path:
    return cache_folder() / "prepared" / key


def read(key: str) -> PreparedSplits | None:
    """The samples under `key`, mapped copy-on-write: pages are read on use, and shared with loader processes."""
    folder = folder_of(key)
    try:
        facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=_Facts)
        made = {
            name: Samples(
                **{f.name: np.load(folder / f"{name}-{f.name}.npy", mmap_mode="c", allow_pickle=False) for f in fields(Samples)}
            )
            for name in NAMES
        }
        os.utime(folder)  # the least recently used are removed first
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return PreparedSplits(
        facts.labels, made["train"], made["validation"], made["test"], facts.task, channels=facts.channels, outputs=facts.outputs,
        notes=facts.notes, points=facts.points, inputs=facts.inputs,
    )  # fmt: skip


def keep(key: str, splits: PreparedSplits, took_seconds: float, max_bytes: int) -> bool:
    """Write by rename, if making the samples took long and they fit under the ceiling; older ones are removed. False: not kept."""
    arrays = {f"{name}-{f.name}": getattr(getattr(splits, name), f.name) for name in NAMES for f in fields(Samples)}
    size = sum(a.nbytes for a in arrays.values())
    if took_seconds < WORTH_SECONDS or size > max_bytes or any(a.dtype == object for a in arrays.values()):
        return False
    target = folder_of(key)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _make_room(target.parent, max_bytes - size)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".partial-"))
        try:
            for name, array in arrays.items():
                np.save(partial / f"{name}.npy", array, allow_pickle=False)
            facts = _Facts(**{name: getattr(splits, name) for name in _Facts.__struct_fields__})
            (partial / FACTS).write_bytes(msgspec.json.encode(facts))
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError:
        return False  # the disk is full or not writable, or another process was first: this only costs time
    return True


def _make_room(root: Path, max_bytes: int) -> None:
    kept = sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.stat().st_mtime)
    sizes = {p: sum(f.stat().st_size for f in p.iterdir()) for p in kept}
    for old in kept:
        if sum(sizes.values()) <= max_bytes:
            return
        shutil.rmtree(old, ignore_errors=True)
        del sizes[old]
