"""The hub's folder: its key, and database and blobs where no URL is given. All of it is its owner's alone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgeloop_contract.errors import StorageError
from edgeloop_hub.settings import Settings

KEY, DATABASE, BLOBS, RESTORING = "online-key.pem", "hub.sqlite", "blobs", "restoring"
OURS = (KEY, BLOBS, RESTORING)


def prepare(settings: Settings) -> None:
    """Make it, and close it to others, whichever release made it. Raises StorageError."""
    folder = settings.data
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (folder / RESTORING).exists():
            raise StorageError(f"{folder}: a restore into it was cut off; run edgeloop-hub restore again with the same file")
        if not settings.database:
            _make(folder / DATABASE)
        for path in folder.iterdir():
            if is_ours(path) and path.lstat().st_uid == os.geteuid() and path.lstat().st_mode & 0o077 and not path.is_symlink():
                path.chmod(path.lstat().st_mode & 0o700)
        if all(is_ours(path) for path in folder.iterdir()) and folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode & 0o700)  # nothing of anybody else's is in it
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror}; the hub needs a folder that it may write") from error


def _make(database: Path) -> None:
    """An empty file, where there is none. One that is there is not even opened: closing it again would drop the locks that SQLite
    holds in this process, and the next process that leaves would delete its log, with all that is only there.
    """
    if not database.exists():
        with contextlib.suppress(FileExistsError):  # another process was first
            os.close(os.open(database, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def is_ours(path: Path) -> bool:
    return path.name in OURS or path.name.startswith((DATABASE, f".{KEY}"))
