"""Deltas between published bundles: signed like them, and fetched by whoever may fetch the bundle that they lead to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update
from tuf.api.metadata import TargetFile

from edgeloop_contract.archive import BundleLimits
from edgeloop_contract.bundle_delta import read_header
from edgeloop_contract.errors import BundleError, DataError
from edgeloop_contract.publications import DELTA
from edgeloop_hub.storage.schema import deltas


def is_delta(target: TargetFile) -> bool:
    return (target.custom or {}).get("kind") == DELTA


def verify(name: str, path: Path, target: TargetFile, listed: Mapping[str, TargetFile]) -> None:
    """Raises DataError unless the file says what was signed of it, and leads to a bundle that is signed too."""
    custom: dict[str, Any] = target.custom or {}
    to = listed.get(str(custom.get("to", "")))
    try:
        with path.open("rb") as file:
            header = read_header(file, BundleLimits().max_unpacked_bytes * 2)
    except BundleError as error:
        raise DataError(f"{name}: {error}") from error
    if to is None or (header.from_sha256, header.to_sha256) != (custom.get("from"), to.hashes.get("sha256")):
        raise DataError(f"{name}: is not between the bundles that were signed; make it anew")


def complete(connection: Connection, listed: Mapping[str, TargetFile]) -> None:
    """Register the deltas among newly signed targets, and mark as withdrawn what is named no more. Raises DataError."""
    known = {row.target: row for row in connection.execute(select(deltas))}
    named = {name: target for name, target in listed.items() if is_delta(target)}
    for name, target in named.items():
        custom: dict[str, Any] = target.custom or {}
        sha256 = target.hashes.get("sha256", "")
        row = known.get(name)
        if row is None:
            values = {"sha256": sha256, "bytes": target.length, "from_sha256": custom["from"], "to_target": custom["to"]}
            connection.execute(insert(deltas).values(target=name, **values))
        elif row.sha256 != sha256:
            raise DataError(f"{name} was published with other bytes; a delta is never changed, make a new one")
        elif row.withdrawn is not None:
            connection.execute(update(deltas).where(deltas.c.target == name).values(withdrawn=None))
    for name in known.keys() - named.keys():
        if known[name].withdrawn is None:
            connection.execute(update(deltas).where(deltas.c.target == name).values(withdrawn=time.time()))


def find(connection: Connection, name: str) -> Any:
    """A delta that is not withdrawn, or None."""
    return connection.execute(select(deltas).where(deltas.c.target == name, deltas.c.withdrawn.is_(None))).first()


def known(connection: Connection) -> set[str]:
    """Names of deltas whose bytes are here."""
    return set(connection.execute(select(deltas.c.target)).scalars())
