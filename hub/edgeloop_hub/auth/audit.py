"""The audit log: who did what. Entries are only added, and each one's digest covers the one before it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, insert, select

from edgeloop_contract.errors import DataError
from edgeloop_hub.storage.many_rows import read_in_parts
from edgeloop_hub.storage.people_tables import audit_log

FIRST = "0" * 64  # the digest before the first entry
MAX_DETAIL = 1000
FIELDS = ("number", "at", "who", "address", "action", "subject", "detail")
a = audit_log.c


def append(connection: Connection, who: str, action: str, subject: str = "", detail: str = "", address: str = "") -> None:
    """Add an entry, in the transaction of what was done, which has to be an ordered one: neither is there without the other."""
    last = connection.execute(select(a.number, a.digest).order_by(a.number.desc()).limit(1)).first()
    number, before = (last.number + 1, last.digest) if last is not None else (1, FIRST)
    words = {"who": who, "address": address, "action": action, "subject": subject, "detail": detail}
    texts = {name: _storable(text)[: MAX_DETAIL if name == "detail" else 200] for name, text in words.items()}
    entry: dict[str, Any] = {"number": number, "at": time.time(), **texts}
    connection.execute(insert(audit_log).values(**entry, digest=digest_of(entry, before)))


def _storable(text: str) -> str:
    """Without what a database refuses: half a letter of two, from a file's name, and the letter of number 0."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def digest_of(entry: dict[str, Any], before: str) -> str:
    """SHA-256 of the digest before it and of the entry's fields as a JSON list, in the order of FIELDS."""
    body = json.dumps([entry[name] for name in FIELDS], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{before}{body}".encode()).hexdigest()


def entries(connection: Connection) -> Iterator[dict[str, Any]]:
    """All of them, the oldest first."""
    rows = read_in_parts(connection, select(audit_log), [a.number], 1000)
    for row in rows:
        yield dict(row._mapping)


def newest(connection: Connection, limit: int, before: int | None = None, who: str = "") -> list[Any]:
    rows = select(audit_log).order_by(a.number.desc()).limit(limit)
    rows = rows.where(a.number < before) if before is not None else rows
    return list(connection.execute(rows.where(a.who == who) if who else rows))


def verify(found: Iterator[dict[str, Any]], head: str = "") -> tuple[int, str]:
    """How many entries there are, and the digest of the last one. `head`: a digest that was noted earlier.

    Raises DataError where an entry was changed or removed.
    """
    count, before, seen = 0, FIRST, not head
    for entry in found:
        count += 1
        if entry["number"] != count:
            raise DataError(f"audit log: entry {count} is missing; after it comes {entry['number']}")
        if entry["digest"] != digest_of(entry, before):
            raise DataError(f"audit log: entry {count} is not as it was written")
        before = entry["digest"]
        seen = seen or before == head
    if not seen:
        raise DataError(
            f"audit log: no entry has the digest {head[:80]}; the end of the log was cut off, or all of it was written anew"
        )
    return count, before
