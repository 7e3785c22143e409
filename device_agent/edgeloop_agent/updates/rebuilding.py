"""Makes a new bundle from the one that is here and a signed delta, in a file beside; its digest decides whether it is taken."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from edgeloop_agent.updates.offers import Delta, Offer
from edgeloop_contract.archive import BundleLimits
from edgeloop_contract.bundle_delta import applied, expanded, read_header
from edgeloop_contract.errors import BundleError

CHUNK = 1 << 20


def digest_of(path: Path) -> str:
    """ "" where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """0 where it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def room_to_rebuild(old: Path, delta: Delta, offer: Offer) -> int:
    """Bytes of disk that a delta and `rebuild` take. Raises BundleError or OSError where the old bundle cannot be read."""
    try:
        with zipfile.ZipFile(old) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        raise BundleError(f"{old}: {error}") from error
    return delta.bytes + unpacked + offer.bytes


def rebuild(old: Path, delta_path: Path, delta: Delta, offer: Offer, partial: Path) -> None:
    """The offered bundle at `partial`, where a whole download would leave it. Raises BundleError or OSError, and leaves nothing.

    It takes disk for the old bundle unpacked and for the new one, and some MiB of memory whatever the delta says.
    """
    limits = BundleLimits(max_bundle_bytes=offer.bytes)
    unpacked, made = partial.with_name("download-unpacked.partial"), partial.with_name("download-rebuilt.partial")
    try:
        with delta_path.open("rb") as file:
            header = read_header(file, limits.max_unpacked_bytes + limits.max_manifest_bytes)
            begins = file.tell()
        if (header.from_sha256, header.to_sha256, header.bytes) != (delta.from_sha256, offer.sha256, offer.bytes):
            raise BundleError("the delta is between other bundles than it was signed for")
        digest = hashlib.sha256()
        with unpacked.open("w+b") as before, made.open("wb") as after:
            expanded(old, before)
            for piece in applied(delta_path, header, begins, before, before.tell()):
                after.write(piece)
                digest.update(piece)
        if digest.hexdigest() != offer.sha256:
            raise BundleError("the delta gave other bytes than those that were signed")
        made.rename(partial)
    finally:
        unpacked.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
