"""Bundles: their bytes arrive in parts, which may be sent again; they count once signed targets name them."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from tuf.api.metadata import Targets

from edgeloop_contract.archive import Bundle, BundleLimits
from edgeloop_contract.drift import Drift
from edgeloop_contract.errors import DataError
from edgeloop_hub.blobs import Blobs
from edgeloop_hub.database import Database
from edgeloop_hub.schema import bundles, parts
from edgeloop_hub.settings import Settings

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


def assemble(database: Database, blobs: Blobs, targets: Targets) -> dict[str, dict[str, Any]]:
    """Put together and verify what new targets name and is not known yet, by target: what the registry will say of each.

    Takes as long as the bundles are large, and so is done before the transaction of `complete`. Raises DataError.
    """
    with database.reading() as connection:
        known = set(connection.execute(select(bundles.c.target)).scalars())
    made = {}
    for name, target in targets.targets.items():
        if name not in known:
            made[name] = _assembled(database, blobs, name, target.hashes.get("sha256", ""), target.length)
    return made


def complete(connection: Connection, blobs: Blobs, targets: Targets, made: dict[str, dict[str, Any]] | None = None) -> None:
    """Every target of newly signed metadata is here, whole, and what its name says; then the registry says so.

    `made`: what `assemble` put together for them. Raises DataError naming the one that is not there.
    """
    known = {row.target: row for row in connection.execute(select(bundles))}
    for name, target in targets.targets.items():
        sha256 = target.hashes.get("sha256", "")
        if name in known:
            if known[name].sha256 != sha256:
                raise DataError(f"{name} was published with other bytes; a version is never changed, make a new one")
            if known[name].withdrawn is not None:
                connection.execute(update(bundles).where(bundles.c.target == name).values(withdrawn=None))
            continue
        about = (made or {}).get(name)
        if about is None:
            raise DataError(f"{name}: is not here; send it before the metadata")
        custom = target.custom or {}
        connection.execute(
            insert(bundles).values(
                target=name,
                sha256=sha256,
                bytes=target.length,
                model=about["model"],
                version=about["version"],
                channel=str(custom.get("channel", "stable"))[:63],
                about=json.dumps(about),
                published=time.time(),
            )
        )
    for name, row in known.items():
        if name not in targets.targets and row.withdrawn is None:
            connection.execute(update(bundles).where(bundles.c.target == name).values(withdrawn=time.time()))


def _assembled(database: Database, blobs: Blobs, name: str, sha256: str, length: int) -> dict[str, Any]:
    """Parts become one blob, after the whole was verified as a bundle. The parts stay until the registry knows it."""
    with database.reading() as connection:
        rows = connection.execute(select(parts.c.begins, parts.c.bytes).where(parts.c.sha256 == sha256).order_by(parts.c.begins))
        pieces = [(f"parts/{sha256}/{row.begins}", row.bytes) for row in rows]
        here = received(connection, sha256)
    if here != length:
        raise DataError(f"{name}: {here} of {length} bytes are here; send them before the metadata")
    with tempfile.NamedTemporaryFile(suffix=".edgeloop") as whole:
        digest = hashlib.sha256()
        for piece, size in pieces:
            for chunk in blobs.read(piece, 0, size):
                digest.update(chunk)
                whole.write(chunk)
        whole.flush()
        if digest.hexdigest() != sha256:
            with database.writing() as connection:
                connection.execute(delete(parts).where(parts.c.sha256 == sha256))
            raise DataError(f"{name}: the bytes here are not those that were signed; send them again")
        with Bundle.open(Path(whole.name), BundleLimits(max_bundle_bytes=length)) as bundle:
            about = about_bundle(bundle)
        blobs.put_file(f"bundles/{sha256}", Path(whole.name))
    return about


def forget_parts(database: Database, blobs: Blobs, sha256s: Iterable[str]) -> None:
    """Of bundles that are whole now."""
    for sha256 in sha256s:
        with database.writing() as connection:
            begins = connection.execute(select(parts.c.begins).where(parts.c.sha256 == sha256)).scalars().all()
            connection.execute(delete(parts).where(parts.c.sha256 == sha256))
        for place in begins:
            blobs.delete(f"parts/{sha256}/{place}")


def straying(drift: Drift) -> dict[str, Any]:
    """How far features' means stray where nothing is wrong: by feature, and what that is told from."""
    found = {"between": drift.between, "within": drift.within}
    by_feature = {name: dict(zip(drift.features, values, strict=False)) for name, values in found.items()}
    return {**by_feature, "places": drift.places, "samples": drift.samples, "recordings": drift.recordings}


def about_bundle(bundle: Bundle) -> dict[str, Any]:
    """What the registry shows of a bundle."""
    manifest = bundle.manifest
    provenance = manifest.provenance
    return {
        "model": manifest.name,
        "version": manifest.version,
        "parent": provenance.parent,
        "recipe": provenance.recipe_sha256,
        "data": provenance.data_sha256,
        "labels": list(getattr(manifest.task, "labels", []))[:1000],
        "reliability": manifest.drift.reliability if manifest.drift else [],
        "straying": straying(manifest.drift) if manifest.drift else {},
        "variants": [
            {
                "name": v.name,
                "bytes": manifest.files[v.file].bytes,
                "accuracy": [v.accuracy.value, v.accuracy.low, v.accuracy.high] if v.accuracy else None,
                "latency_us": v.cost.latency_us_p50 if v.cost else None,
                "machine": v.cost.machine if v.cost else None,
            }
            for v in manifest.variants
        ],
    }


def forget_stale_parts(database: Database, blobs: Blobs) -> None:
    before = time.time() - STALE_SECONDS
    with database.reading() as connection:
        old = connection.execute(select(parts).where(parts.c.at < before)).all()
    for row in old:
        blobs.delete(f"parts/{row.sha256}/{row.begins}")
    with database.writing() as connection:
        connection.execute(delete(parts).where(parts.c.at < before))


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Every version, newest first, with its lineage, accuracy and cost."""
    rows = connection.execute(select(bundles).order_by(bundles.c.published.desc(), bundles.c.version.desc()).limit(500))
    columns = ("target", "sha256", "bytes", "channel", "published", "withdrawn")
    return [{**{c: getattr(row, c) for c in columns}, **json.loads(row.about)} for row in rows]
