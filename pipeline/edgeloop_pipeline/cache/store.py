"""Stores finished stages on disk: one folder each, named by its key, complete or absent."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from edgeloop_contract.errors import StorageError
from edgeloop_contract.files import publish
from edgeloop_pipeline.cache.digests import digest, sha256

DONE = "done.json"


class Entry(msgspec.Struct, frozen=True):
    """The record of a finished stage. `parts`: everything in its key, by name."""

    stage: str
    key: str
    parts: dict[str, str]
    metrics: dict[str, Any]
    seconds: float
    peak_bytes: int
    files: dict[str, str]  # name → sha256

    @property
    def digest(self) -> str:
        """The digest of the artefacts alone, on which later stages depend."""
        return digest(self.files)


class Store:
    """A runs folder: `cache/` holds finished stages, `work/` checkpoints of unfinished ones, and a note per recipe."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        return self.root / "cache" / f"{stage}-{key}"

    def find(self, stage: str, key: str) -> Entry | None:
        """The finished stage, or None if it is absent or damaged; it then runs again."""
        folder = self.folder(stage, key)
        entry = _read(folder / DONE)
        if entry is None or entry.key != key:
            return None
        names = {p.name for p in folder.iterdir()} - {DONE}
        intact = names == entry.files.keys() and all(sha256(folder / n) == d for n, d in entry.files.items())
        return entry if intact else None

    def last(self, recipe: str, stage: str) -> Entry | None:
        """The newest finished entry of this stage for this recipe, with any key."""
        try:
            key = (self.root / "last" / recipe / stage).read_text().strip()
        except OSError:
            return None
        return _read(self.folder(stage, key) / DONE)

    def scratch(self, stage: str, key: str) -> Path:
        """The folder of the stage's checkpoints: it survives a kill, and is removed when the stage is done."""
        folder = self.root / "work" / f"{stage}-{key}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def writing(self, stage: str, key: str) -> Iterator[Path]:
        """Context: a folder to write into. `publish` makes it visible; after an exception it is removed."""
        partial = self.root / "cache" / f".partial-{stage}-{key}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def publish(self, partial: Path, entry: Entry) -> None:
        """Sync all files and rename the folder: readers see all of it or nothing."""
        (partial / DONE).write_bytes(msgspec.json.encode(entry, order="sorted"))
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        target = self.folder(entry.stage, entry.key)
        shutil.rmtree(target, ignore_errors=True)  # can only be a damaged entry
        os.replace(partial, target)
        _sync(target.parent)
        shutil.rmtree(self.root / "work" / f"{entry.stage}-{entry.key}", ignore_errors=True)

    def note(self, recipe: str, entry: Entry) -> None:
        """Record the entry as the newest of its stage for this recipe."""
        write(self.root / "last" / recipe / entry.stage, entry.key.encode())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Allow one run at a time in a runs folder. Raises StorageError if another run works there."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("a+")
        except OSError as error:
            raise StorageError(f"{self.root}: cannot be written ({error.strerror}); choose another folder with --runs") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StorageError(
                    f"{self.root}: another run works in this folder; wait for it, or choose another --runs"
                ) from error
            yield


def write(path: Path, data: bytes) -> None:
    """Write a small file by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    publish(path, data)


def _read(path: Path) -> Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, msgspec.MsgspecError):
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
