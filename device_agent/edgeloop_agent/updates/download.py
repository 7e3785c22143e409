"""Downloads a bundle into a slot: resumable, under a bandwidth limit, and never more bytes than were signed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.offers import Offer
from edgeloop_agent.updates.origins import Origin
from edgeloop_agent.updates.rebuilding import digest_of, size_of
from edgeloop_agent.updates.room import check_room
from edgeloop_agent.updates.trust import TrustError
from edgeloop_contract.errors import NetworkError, StorageError
from edgeloop_contract.files import remedy_of, take_place

RATE_WINDOW_SECONDS = 30.0  # over which a download must not be slower than the least rate


def fetch(
    folder: UpdateFolder, offer: Offer, origin: Origin, slot: Path, max_rate: int, min_rate: int,
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> None:  # fmt: skip
    """The signed bytes of `offer` at `slot`. Bytes that came before an interruption are not fetched again.

    Raises NetworkError (resume later), TrustError (other bytes than signed; they are deleted), StorageError.
    """
    partial = partial_of(folder, offer)
    try:
        for other in folder.path.glob("download-*.partial"):
            if other != partial:
                other.unlink(missing_ok=True)
        if size_of(partial) < offer.bytes:
            check_room(folder.path, offer.bytes - size_of(partial), offer.target)
            _complete(partial, offer, origin, max_rate, min_rate, clock, sleep)
        if size_of(partial) != offer.bytes or digest_of(partial) != offer.sha256:
            partial.unlink(missing_ok=True)
            raise TrustError(f"{offer.target}: the bytes are not those that were signed; they were deleted")
        take_place(partial, slot)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)  # free the space
        why = f"{offer.bytes} bytes for {offer.target} ({error.strerror})"
        raise StorageError(f"{folder.path}: {why}; {remedy_of(error)}") from error


def partial_of(folder: UpdateFolder, offer: Offer) -> Path:
    """Where the bytes of a download wait until it is whole."""
    return folder.download.with_name(f"download-{offer.sha256}.partial")


def _complete(
    partial: Path, offer: Offer, origin: Origin, max_rate: int, min_rate: int,
    clock: Callable[[], float], sleep: Callable[[float], None],
) -> None:  # fmt: skip
    wanted = size_of(partial)
    begins, chunks = origin.target(f"{offer.sha256}.{offer.target}", wanted)
    with partial.open("ab") as file:
        if begins != wanted:
            file.truncate(0)
        size = begins
        for chunk in paced(chunks, max_rate, min_rate, clock, sleep):
            if size + len(chunk) > offer.bytes:
                raise TrustError(f"{offer.target}: more than the {offer.bytes} bytes that were signed; broken off")
            file.write(chunk)
            size += len(chunk)
    if size < offer.bytes:
        raise NetworkError(f"{offer.target}: {size} of {offer.bytes} bytes came; the rest comes at the next poll")


def paced(
    chunks: Iterator[bytes], max_rate: int, min_rate: int,
    clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bytes]:  # fmt: skip
    """The chunks, at most `max_rate` bytes a second. Raises NetworkError below `min_rate`."""
    began = looked = clock()
    total, since = 0, 0
    for chunk in chunks:
        yield chunk
        total += len(chunk)
        since += len(chunk)
        now = clock()
        if now - looked > RATE_WINDOW_SECONDS:
            if since < min_rate * (now - looked):
                raise NetworkError(f"only {since / (now - looked):.0f} bytes a second; broken off, the rest comes at the next poll")
            looked, since = now, 0
        if max_rate and (ahead := total / max_rate - (now - began)) > 0:
            sleep(ahead)
