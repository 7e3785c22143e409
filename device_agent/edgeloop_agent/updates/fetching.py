"""Brings the signed bytes of an update into its slot, by the way that takes the fewest bytes from the network."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeloop_agent.config import Config, Updates
from edgeloop_agent.hub_client import NotFound
from edgeloop_agent.updates.download import fetch, partial_of
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.offers import Delta, Offer
from edgeloop_agent.updates.origins import Origin
from edgeloop_agent.updates.rebuilding import digest_of, rebuild
from edgeloop_agent.updates.trust import TrustError
from edgeloop_contract.errors import BundleError, StorageError
from edgeloop_contract.publications import BUNDLE


def fetched(config: Config, folder: UpdateFolder, offer: Offer, origin: Origin, path: Path, delta: Delta | None) -> str:
    """The signed bytes at `path`; returns how they came, where that was by a delta or another way than it should have been.

    Raises NetworkError, StorageError.
    """
    came = _held(config, folder, offer)
    if not came and delta is not None:
        came = _rebuilt(config, offer, origin, folder, delta)
    _fetch(config.updates, folder, offer, origin, path)
    from_hub = f"from the hub itself, as its storage did not do: {origin.detour}" if origin.detour else ""
    return "; ".join(filter(None, (came, from_hub)))


def _fetch(settings: Updates, folder: UpdateFolder, offer: Offer, origin: Origin, path: Path) -> None:
    fetch(folder, offer, origin, path, settings.max_bytes_per_second, settings.min_bytes_per_second)


def _held(config: Config, folder: UpdateFolder, offer: Offer) -> str:
    """Copy a bundle that the config names, where the download would leave it: the fleet goes back to what it was shipped with."""
    if offer.kind != BUNDLE:
        return ""
    mine = next((path for path in map(Path, config.bundles) if digest_of(path) == offer.sha256), None)
    if mine is None:
        return ""
    try:
        shutil.copyfile(mine, partial_of(folder, offer))
    except OSError:  # the download says what is wrong with the disk
        partial_of(folder, offer).unlink(missing_ok=True)
        return ""
    return "from the config's own file, without a download"


def _rebuilt(config: Config, offer: Offer, origin: Origin, folder: UpdateFolder, delta: Delta) -> str:
    """Make the bundle of the one that runs and a delta, where the download would leave it; returns what came of it.

    Where anything does not fit, nothing is left behind and the whole is downloaded. Raises NetworkError: the origin is away.
    """
    partial, file = partial_of(folder, offer), folder.path / "download-delta.partial"
    if delta.bytes >= offer.bytes or partial.exists():
        return ""
    here = [folder.slot("a"), folder.slot("b"), *map(Path, config.bundles)]
    old = next((path for path in here if digest_of(path) == delta.from_sha256), None)
    if old is None:
        return ""
    try:
        _fetch(config.updates, folder, delta.file, origin, file)
        rebuild(old, file, delta, offer, partial)
        return f"by a delta of {delta.bytes} bytes instead of {offer.bytes}"
    except (BundleError, StorageError, NotFound, TrustError, OSError, MemoryError) as error:
        return f"whole, as its delta did not do: {error}"
    finally:
        file.unlink(missing_ok=True)
