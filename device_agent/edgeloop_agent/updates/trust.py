"""What the signed metadata allow: The Update Framework's client, with a clock floor and metadata that survive power cuts.

Metadata are refreshed in a copy of their folder; the journal names the new folder once it is whole on the disk. So a rollback
is noticed even where a cut came in the middle of a refresh.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeloop_agent.hub_client import NotFound
from edgeloop_agent.updates.journal import Journal, UpdateFolder
from edgeloop_agent.updates.offers import Offer, SignedTargets
from edgeloop_agent.updates.origins import Origin
from edgeloop_contract.errors import NetworkError, StorageError
from edgeloop_contract.files import sync_folder

LIMITS = UpdaterConfig(
    max_root_rotations=64, root_max_length=64_000, timestamp_max_length=16_384, snapshot_max_length=64_000,
    targets_max_length=2_000_000,
)  # fmt: skip


class TrustError(NetworkError):
    """The metadata are not what the trusted keys signed, or are too old: nothing is taken; ask whoever runs the hub."""


class _Fetcher(FetcherInterface):
    """python-tuf's seam to the outside."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._origin.metadata(url.rpartition("/")[2])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
        except NetworkError as error:
            raise DownloadError(str(error)) from error


def refresh(folder: UpdateFolder, journal: Journal, origin: Origin, now: float) -> SignedTargets:
    """Verify what is signed now, after everything trusted before. Nothing changes until the journal names the new generation.

    `now`: seconds since 1970; a clock behind the journal's floor is taken for the floor. Raises NetworkError, TrustError,
    StorageError.
    """
    generation = journal.generation + 1
    path = folder.metadata(generation)
    try:
        shutil.rmtree(path, ignore_errors=True)
        old = folder.metadata(journal.generation)
        if old.exists():
            shutil.copytree(old, path, symlinks=True)
        else:
            path.mkdir(parents=True)
        signed = _refreshed(folder.root.read_bytes(), path, origin, max(now, journal.clock_floor))
        _sync(path)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise StorageError(f"{path}: metadata cannot be kept ({error.strerror}); make room") from error
    except NetworkError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return SignedTargets(signed.version, generation, _offers(signed))


def _refreshed(root: bytes, path: Path, origin: Origin, now: float) -> Targets:
    try:
        updater = Updater(str(path), "https://hub/", fetcher=_Fetcher(origin), config=LIMITS, bootstrap=root)
        # There is no public way to say what time it is; tests of the clock floor and of expiry would notice a change.
        updater._trusted_set.reference_time = datetime.fromtimestamp(now, timezone.utc)
        updater.refresh()
        found: Metadata[Targets] = Metadata.from_file(str(path / "targets.json"))
    except DownloadError as error:
        cause = error.__cause__
        raise NetworkError(str(cause if isinstance(cause, NetworkError) else error)) from error
    except ExpiredMetadataError as error:
        raise TrustError(_expired(str(error), now)) from error
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"metadata that the trusted keys did not sign so ({error}); nothing is taken from there") from error
    return found.signed


def _expired(said: str, now: float) -> str:
    """Whose turn it is. Before targets a timestamp that holds was looked at: this clock is right, and what was signed too old."""
    clock = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if "timestamp" in said or "snapshot" in said:
        return f"metadata are out of date ({said}; this clock says {clock}): is the hub's tick at work, and this clock right?"
    if "root" in said:
        return (
            f"metadata are out of date ({said}; this clock says {clock}): if the clock is right, whoever publishes renews them: "
            "edgeloop keys renew root"
        )
    remedy = "whoever publishes renews them with edgeloop keys renew; this device's clock agrees with the hub's"
    return f"metadata are out of date ({said}): {remedy}"


def _offers(targets: Targets) -> dict[str, Offer]:
    found = {}
    for name, file in targets.targets.items():
        said: dict[str, Any] = file.custom or {}
        if "sha256" in file.hashes and isinstance(said.get("version"), int):
            found[name] = Offer(name, file.length, file.hashes["sha256"], str(said.get("model", "")), said["version"])
    return found


def _sync(folder: Path) -> None:
    for path in [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir()), folder.parent]:
        sync_folder(path)


def forget_old(folder: UpdateFolder, generation: int) -> None:
    """Only the trusted generation is kept."""
    for path in folder.path.glob("metadata-*"):
        if path != folder.metadata(generation):
            shutil.rmtree(path, ignore_errors=True)
