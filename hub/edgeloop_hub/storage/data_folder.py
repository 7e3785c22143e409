"""The hub's folder: its key, and database and blobs where no URL is given. All of it is its owner's alone."""

from __future__ import annotations

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
            os.close(os.open(folder / DATABASE, os.O_CREAT | os.O_RDWR, 0o600))
        for path in folder.iterdir():
            if is_ours(path) and path.lstat().st_uid == os.geteuid() and path.lstat().st_mode & 0o077 and not path.is_symlink():
                path.chmod(path.lstat().st_mode & 0o700)
        if all(is_ours(path) for path in folder.iterdir()) and folder.stat().st_uid == os.geteuid():
            folder.chmod(folder.stat().st_mode & 0o700)  # nothing of anybody else's is in it
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror}; the hub needs a folder that it may write") from error


def is_ours(path: Path) -> bool:
    return path.name in OURS or path.name.startswith((DATABASE, f".{KEY}"))
