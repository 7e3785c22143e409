"""Parts of bundles that are sent in pieces, until they are a whole."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import Connection, delete, insert, select

from edgeloop_contract.errors import DataError
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import parts

STALE_SECONDS = 7 * 86400.0


def received(connection: Connection, sha256: str) -> int:
    """How many bytes from the start on are there without a gap."""
    size = 0
    for begins, count in connection.execute(
        select(parts.c.begins, parts.c.bytes).where(parts.c.sha256 == sha256).order_by(parts.c.begins)
    ):
        if begins != size:
            break
        size += count
    return size


def add_part(database: Database, blobs: Blobs, sha256: str, begins: int, content: bytes, settings: Settings) -> int:
    """Keep a part, once; returns how many bytes are there. Raises DataError when it does not follow on.

    Its bytes go to the storage while nobody waits for the database.
    """
    with database.reading() as connection:
        size = received(connection, sha256)
    if begins + len(content) <= size:
        return size  # sent again
    if begins != size:
        raise DataError(f"a part at byte {begins}; {size} bytes are here, go on from there")
    if size + len(content) > settings.max_bundle_bytes:
        raise DataError(f"more than {settings.max_bundle_bytes} bytes; the hub takes no larger bundle")
    blobs.put(f"parts/{sha256}/{begins}", content)
    with database.writing() as connection:
        if received(connection, sha256) == begins:  # else the same part came twice at once
            connection.execute(insert(parts).values(sha256=sha256, begins=begins, bytes=len(content), at=time.time()))
        return received(connection, sha256)


def forget_parts(database: Database, blobs: Blobs, sha256s: Iterable[str]) -> None:
    """Of bundles that are whole now."""
    for sha256 in sha256s:
        with database.writing() as connection:
            begins = connection.execute(select(parts.c.begins).where(parts.c.sha256 == sha256)).scalars().all()
            connection.execute(delete(parts).where(parts.c.sha256 == sha256))
        for place in begins:
            blobs.delete(f"parts/{sha256}/{place}")


def forget_stale_parts(database: Database, blobs: Blobs) -> None:
    before = time.time() - STALE_SECONDS
    with database.reading() as connection:
        old = connection.execute(select(parts).where(parts.c.at < before)).all()
    for row in old:
        blobs.delete(f"parts/{row.sha256}/{row.begins}")
    with database.writing() as connection:
        connection.execute(delete(parts).where(parts.c.at < before))
