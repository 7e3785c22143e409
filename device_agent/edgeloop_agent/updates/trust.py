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

import msgspec
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeloop_agent.hub_client import NotFound
from edgeloop_agent.updates.journal import Journal, UpdateFolder
from edgeloop_agent.updates.offers import Delta, Offer, SignedManifest, SignedTargets
from edgeloop_agent.updates.origins import Origin
from edgeloop_contract.errors import NetworkError, StorageError
from edgeloop_contract.files import remedy_of, sync_folder
from edgeloop_contract.needs import AgentNeeds
from edgeloop_contract.publications import AGENT, DELTA, MANIFEST

LIMITS = UpdaterConfig(
    max_root_rotations=64, root_max_length=64_000, timestamp_max_length=16_384, snapshot_max_length=64_000,
    targets_max_length=2_000_000,
)  # fmt: skip


class TrustError(NetworkError):
    """The metadata are not what the trusted keys signed, or are too old: no update is installed; ask the operator of the hub."""


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
        raise StorageError(f"{path}: metadata cannot be kept ({error.strerror}); {remedy_of(error)}") from error
    except NetworkError:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return SignedTargets(signed.version, generation, _offers(signed), _deltas(signed))


def _refreshed(root: bytes, path: Path, origin: Origin, now: float) -> Targets:
    clock = datetime.fromtimestamp(now, timezone.utc)
    updater: Updater | None = None
    try:
        updater = Updater(str(path), "https://hub/", fetcher=_Fetcher(origin), config=LIMITS, bootstrap=root)
        # tuf has no public way to set the time; tests of the clock floor and of expiry would notice a change.
        updater._trusted_set.reference_time = clock
        updater.refresh()
        targets: Metadata[Targets] = Metadata.from_file(str(path / "targets.json"))
    except DownloadError as error:
        cause = error.__cause__
        raise NetworkError(str(cause if isinstance(cause, NetworkError) else error)) from error
    except ExpiredMetadataError as error:
        raise TrustError(_expired(_expired_role(updater, clock), str(error), clock)) from error
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"the trusted keys did not sign these metadata ({error}); no update is installed") from error
    return targets.signed


def _expired_role(updater: Updater | None, clock: datetime) -> str:
    """Which role's metadata are expired. Expired targets are never among the trusted ones."""
    trusted = {} if updater is None else updater._trusted_set
    return next(
        (role for role in ("root", "timestamp", "snapshot") if role in trusted and trusted[role].is_expired(clock)), "targets"
    )


def _expired(role: str, why: str, clock: datetime) -> str:
    """Who must act. Targets are checked after a valid timestamp, so this device's clock is right where they are expired."""
    time = f"this device's clock: {clock:%Y-%m-%d %H:%M UTC}"
    if role in ("timestamp", "snapshot"):
        return f"metadata are out of date ({why}; {time}): does the hub's tick run, and is the clock right?"
    if role == "root":
        return f"metadata are out of date ({why}; {time}): if the clock is right, the publisher must run edgeloop keys renew root"
    return f"metadata are out of date ({why}): the publisher must run edgeloop keys renew; the device's clock is right"


def _offers(targets: Targets) -> dict[str, Offer]:
    offers = {}
    for name, file in targets.targets.items():
        custom: dict[str, Any] = file.custom or {}
        if "sha256" in file.hashes and isinstance(custom.get("version"), int):
            offers[name] = Offer(
                name,
                file.length,
                file.hashes["sha256"],
                str(custom.get("model", "")),
                custom["version"],
                str(custom.get("kind", "bundle")),
                _needs(custom),
                _manifest(custom),
            )
    return offers


def _needs(custom: dict[str, Any]) -> AgentNeeds | None:
    """What an agent needs; None for what is no agent, and for one that does not say it."""
    try:
        return msgspec.convert(custom[AGENT], AgentNeeds) if custom.get("kind") == AGENT else None
    except (KeyError, msgspec.ValidationError):
        return None


def _manifest(custom: dict[str, Any]) -> SignedManifest | None:
    try:
        return msgspec.convert(custom[MANIFEST], SignedManifest)
    except (KeyError, msgspec.ValidationError):
        return None


def _deltas(targets: Targets) -> dict[tuple[str, str], Delta]:
    deltas = {}
    for name, file in targets.targets.items():
        custom: dict[str, Any] = file.custom or {}
        begin, to = custom.get("from"), custom.get("to")
        if custom.get("kind") == DELTA and "sha256" in file.hashes and isinstance(begin, str) and isinstance(to, str):
            deltas[to, begin] = Delta(name, file.length, file.hashes["sha256"], begin, to)
    return deltas


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
