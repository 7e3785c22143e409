"""Whether an update fits on the disk, before it is downloaded: what is fetched, what is unpacked, and a margin."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgeloop_agent.updates.environments import unpacked_in
from edgeloop_contract.errors import StorageError
from edgeloop_contract.wheelhouse import Wheel, WheelhouseManifest

__all__ = ["MARGIN_BYTES", "check_room", "free_bytes", "room_of_wheels", "room_of_whole"]

MARGIN_BYTES = 1 << 20  # that an update leaves free: the journal, the metadata and what others write
COMPILED = 1.5  # of what is unpacked: compiled modules, and what a file system adds
BLOCK = 4096


def check_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises StorageError where so many bytes and the margin are not free. `what`: that needs them."""
    free, needed = free_bytes(folder), needed_bytes + MARGIN_BYTES
    if free < needed:
        raise StorageError(f"{folder}: {free:,} bytes are free, and {what} needs {needed:,}; make room")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def room_of_whole(unpacked_bytes: int, download_bytes: int) -> int:
    """Of an agent whose wheelhouse comes whole. `download_bytes`: that are not here yet."""
    return int(unpacked_bytes * COMPILED) + download_bytes


def room_of_wheels(manifest: WheelhouseManifest, missing: Sequence[Wheel], download_bytes: int, old: Path, folder: Path) -> int:
    """Of an agent that shares all wheels but `missing` with the environment `old`: files of the others are linked.

    Modules are compiled anew for all. Where the disk of `folder` has no links, everything is copied.
    """
    come = {wheel.sha256 for wheel in missing}
    shared = [old / name for sha256, files in unpacked_in(old).wheels.items() if sha256 not in come for name in files]
    if not _has_links(folder):
        return room_of_whole(manifest.unpacked_bytes, download_bytes)
    unpacked = max(0, manifest.unpacked_bytes - sum(path.stat().st_size for path in shared))
    compiled = sum(path.stat().st_size for path in old.rglob("*.pyc"))
    folders = sum(BLOCK for _ in os.walk(old))
    return min(int(unpacked * COMPILED) + compiled + folders, int(manifest.unpacked_bytes * COMPILED)) + download_bytes


def _has_links(folder: Path) -> bool:
    one, other = folder / "link.partial", folder / "link-2.partial"
    try:
        one.touch()
        os.link(one, other)
    except OSError:
        return False
    finally:
        one.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return True
