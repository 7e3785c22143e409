"""Brings the signed bytes of an update into its slot, by the way that takes the fewest bytes from the network."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeloop_agent.config import Config, Updates
from edgeloop_agent.hub_client import NotFound
from edgeloop_agent.updates import changed_wheels
from edgeloop_agent.updates.download import fetch, paced, partial_of
from edgeloop_agent.updates.environments import placed
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.offers import Delta, Offer
from edgeloop_agent.updates.origins import Origin
from edgeloop_agent.updates.rebuilding import digest_of, rebuild, room_to_rebuild, size_of
from edgeloop_agent.updates.room import check_room, room_of_wheels, room_of_whole
from edgeloop_agent.updates.trust import TrustError
from edgeloop_contract.errors import BundleError, BundleTooNew, StorageError
from edgeloop_contract.files import remedy_of
from edgeloop_contract.publications import BUNDLE
from edgeloop_contract.wheelhouse import MANIFEST_BEGINS, Wheel, manifest_from, places


def fetched(config: Config, folder: UpdateFolder, offer: Offer, origin: Origin, path: Path, delta: Delta | None) -> str:
    """The signed bytes at `path`; returns how they came, where that was by a delta or another way than it should have been.

    Raises NetworkError, StorageError.
    """
    if offer.needs is not None:
        missing = offer.bytes - size_of(partial_of(folder, offer))
        check_room(folder.path, room_of_whole(offer.needs.unpacked_bytes, missing), "the new agent")
    came = _held(config, folder, offer)
    if not came and delta is not None:
        came = _rebuilt(config, offer, origin, folder, delta)
    _fetch(config.updates, folder, offer, origin, path)
    from_hub = f"from the hub itself, as its storage did not do: {origin.detour}" if origin.detour else ""
    return "; ".join(filter(None, (came, from_hub)))


def fetched_wheels(config: Config, folder: UpdateFolder, offer: Offer, origin: Origin) -> tuple[bool, str]:
    """Whether the wheels that this device does not have came in place of the whole (`changed_wheels.came`), and what is to be said.

    Where anything does not fit, nothing is left behind. Raises NetworkError: the rest comes later; StorageError; BundleTooNew.
    """
    if offer.manifest is None or folder.load().active is None:
        return False, ""
    path = folder.path / changed_wheels.FOLDER
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        for other in folder.path.glob("download-*.partial"):
            other.unlink()
        count, missing = _wheels(config.updates, folder, offer, origin, path)
        if len(missing) == count:
            changed_wheels.forget(folder)
            return False, ""
    except StorageError:
        changed_wheels.forget(folder)
        raise
    except (TrustError, NotFound, BundleError) as error:
        changed_wheels.forget(folder)
        if isinstance(error, BundleTooNew):
            raise
        return False, f"whole, as its wheels did not do: {error}"
    except OSError as error:
        changed_wheels.forget(folder)  # free the space
        raise StorageError(f"{path}: wheels of {offer.target} cannot be kept ({error.strerror}); {remedy_of(error)}") from error
    taken = offer.manifest.bytes + sum(wheel.bytes for wheel in missing)
    return True, f"by {len(missing)} of {count} wheels, {taken} bytes instead of {offer.bytes}"


def _wheels(settings: Updates, folder: UpdateFolder, offer: Offer, origin: Origin, path: Path) -> tuple[int, list[Wheel]]:
    """The signed list and what is missing of it, in files named by digest: how many wheels there are, and those that came."""
    assert offer.manifest is not None
    name, listed = f"{offer.sha256}.{offer.target}", path / offer.manifest.sha256
    _bring(listed, offer.manifest.bytes, MANIFEST_BEGINS, origin, name, settings)
    manifest = manifest_from(path, listed.read_bytes())
    missing, begins = changed_wheels.missing(folder, manifest), places(manifest, offer.manifest.bytes)
    if len(missing) < len(manifest.wheels):
        for other in path.iterdir():
            if other.name not in {listed.name, *(wheel.sha256 for wheel in missing)}:
                other.unlink()
        download = sum(wheel.bytes - size_of(path / wheel.sha256) for wheel in missing)
        old = placed(folder.path, str(folder.load().active))
        check_room(folder.path, room_of_wheels(manifest, missing, download, old, path), "the new agent")
        for wheel in missing:
            _bring(path / wheel.sha256, wheel.bytes, begins[wheel.file], origin, name, settings)
    return len(manifest.wheels), missing


def _bring(file: Path, size: int, begins: int, origin: Origin, name: str, settings: Updates) -> None:
    """`size` bytes of a target from `begins` on, as far as they are not there. The file is named by their digest.

    Raises TrustError for other bytes, NotFound where there are fewer.
    """
    have = size_of(file)
    if have == size and digest_of(file) == file.name:
        return
    have = have if have < size else 0
    with file.open("r+b" if have else "wb") as out:
        out.seek(have)
        chunks = origin.part(name, begins + have, size - have)
        for chunk in paced(chunks, settings.max_bytes_per_second, settings.min_bytes_per_second):
            if have + len(chunk) > size:
                raise TrustError(f"{name}: more bytes than were asked for; broken off")
            have += out.write(chunk)
    if have < size:
        raise NotFound(f"{name}: {have} of {size} bytes came")
    if digest_of(file) != file.name:
        raise TrustError(f"{name}: the bytes are not those that were signed")


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
        check_room(folder.path, room_to_rebuild(old, delta, offer), "its delta")
        _fetch(config.updates, folder, delta.file, origin, file)
        rebuild(old, file, delta, offer, partial)
        return f"by a delta of {delta.bytes} bytes instead of {offer.bytes}"
    except (BundleError, StorageError, NotFound, TrustError, OSError, MemoryError) as error:
        return f"whole, as its delta did not do: {error}"
    finally:
        file.unlink(missing_ok=True)
