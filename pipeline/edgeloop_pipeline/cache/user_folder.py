"""Finds the folder of the user's caches."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder: $EDGELOOP_DATA, else $XDG_CACHE_HOME/edgeloop, else ~/.cache/edgeloop."""
    if named := os.environ.get("EDGELOOP_DATA"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeloop"
