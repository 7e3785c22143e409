"""Where temporary files go on a device whose root is read-only: into the state folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

__all__ = ["use_scratch"]

NAMES, PLACES = ("TMPDIR", "TEMP", "TMP"), ("/tmp", "/var/tmp", "/usr/tmp")  # as the library `tempfile` looks for one


def use_scratch(state: Path, clean: bool = False) -> None:
    """Let this process and those that it starts use `state`/tmp where no temporary folder can be written.

    `clean`: delete what an earlier process left there. Where `state` cannot be written either, nothing changes: what needs a
    temporary file says so.
    """
    if any(_writable(folder) for folder in [*filter(None, map(os.environ.get, NAMES)), *PLACES]):
        return
    folder = state / "tmp"
    with contextlib.suppress(OSError):
        if clean:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ["TMPDIR"] = str(folder)


def _writable(folder: str) -> bool:
    """An entry of the system that says no for a read-only file system too."""
    return os.access(folder, os.W_OK | os.X_OK)
