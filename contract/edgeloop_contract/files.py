"""Files that are either the old ones or the new ones, whatever happens in between."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["publish", "publishing", "remedy_of", "sync_folder", "take_place"]

FULL = (errno.ENOSPC, errno.EDQUOT)
WORN = (errno.EROFS, errno.EIO)


def remedy_of(error: Exception) -> str:
    """What to do about a disk that refuses: an OSError, or SQLite's error, which has only a text."""
    number, text = getattr(error, "errno", None), str(error)
    if number in FULL or "is full" in text:
        return "make room"
    if number in WORN or "disk I/O error" in text or "readonly" in text:
        return "the disk is read-only or worn out: see the kernel's log, mount it anew or replace it"
    return "check the path, its rights, and that there is room"


def publish(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` beside `path`, fsync, rename, fsync the folder. Raises OSError, and then nothing changed."""
    with publishing(path, mode) as file:
        file.write(content)


@contextmanager
def publishing(path: Path, mode: int = 0o644, several_writers: bool = False) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its place when the block ends. After any exception the old file stays as it was.

    `several_writers`: other processes or threads may write the same file at the same time, so each uses a name of its own.
    """
    writer = f".{os.getpid()}-{threading.get_native_id()}" if several_writers else ""
    partial = path.with_name(f".{path.name}{writer}.partial")
    try:
        with open(partial, "wb", opener=functools.partial(os.open, mode=mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def take_place(partial: Path, path: Path) -> None:
    """Let a file that was written piece by piece take the place of `path`, in the same folder. Raises OSError."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
