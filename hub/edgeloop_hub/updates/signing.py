"""The hub's part in The Update Framework: it checks what the workstation signed, and signs snapshot and timestamp itself.

Its key is online, and so may be stolen: with it nobody can list a bundle; only the targets key, which is never here, can.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from sqlalchemy import Connection, and_, delete, func, insert, select
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edgeloop_contract.errors import DataError, StorageError
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.data_folder import KEY
from edgeloop_hub.storage.schema import signed
from edgeloop_hub.updates import clock

MAX_TARGETS_BYTES, MAX_ROOT_BYTES = 2_000_000, 64_000  # what an agent fetches of each
FIRST_MINUTE = 1_577_836_800.0  # 2020
KEPT = 5  # versions of snapshot and timestamp that stay, for devices in the middle of a refresh


def online_signer(settings: Settings) -> CryptoSigner:
    """The hub's key, made at its first use. Raises StorageError."""
    path = settings.data / KEY
    try:
        if not path.exists():
            settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(CryptoSigner.generate_ed25519().private_bytes)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # the first of several workers wins
                os.link(partial, path)
            partial.unlink()
        return CryptoSigner(load_pem_private_key(path.read_bytes(), None))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: the hub's key cannot be read ({error})") from error


class StoredMetadata(NamedTuple):
    """Signed metadata of a role, as JSON."""

    version: int
    body: bytes


def latest(connection: Connection, role: str) -> StoredMetadata | None:
    """The newest metadata of a role."""
    row = connection.execute(
        select(signed.c.version, signed.c.body).where(signed.c.role == role).order_by(signed.c.version.desc()).limit(1)
    ).first()
    return StoredMetadata(row[0], row[1]) if row else None


def latest_version(connection: Connection, role: str) -> int:
    """0: there is none."""
    return connection.execute(select(func.max(signed.c.version)).where(signed.c.role == role)).scalar() or 0


def find(connection: Connection, file: str) -> bytes | None:
    """`timestamp.json`, or `7.snapshot.json`."""
    stem, _, suffix = file.rpartition(".")
    version, _, role = stem.rpartition(".")
    if suffix != "json":
        return None
    if role == "timestamp" and not version:
        newest = latest(connection, role)
        return newest.body if newest else None
    if role not in ("root", "snapshot", "targets") or not re.fullmatch(r"[0-9]{1,9}", version):
        return None
    return connection.execute(select(signed.c.body).where(signed.c.role == role, signed.c.version == int(version))).scalar()


def accept(
    connection: Connection, roots: list[bytes], targets: bytes | None, signer: CryptoSigner, settings: Settings
) -> Targets | None:
    """Store what the workstation signed, if every signature and version is right, and sign a snapshot of it.

    Raises DataError with what is wrong; then nothing is stored.
    """
    root = _accept_roots(connection, roots)
    if root is None:
        raise DataError("there is no root metadata yet: run edgeloop keys init")
    if not any(k == signer.public_key.keyid for k in root.roles["timestamp"].keyids):
        raise DataError(
            "this hub's key is not among the root's timestamp keys: run edgeloop keys rotate online (or keys init, on a new hub)"
        )
    accepted = None
    if targets is not None:
        if len(targets) > MAX_TARGETS_BYTES:
            raise DataError(
                f"targets metadata of {len(targets)} bytes; devices take {MAX_TARGETS_BYTES}: withdraw old bundles first"
            )
        accepted = verified(Metadata[Targets], targets, "targets", root)
        before = latest(connection, "targets")
        if before is not None and accepted.version <= before.version:
            raise DataError(f"targets version {accepted.version}; the hub has {before.version}: take that one and sign anew")
        _store(connection, "targets", accepted.version, targets, accepted.expires)
    if latest(connection, "targets") is not None:
        sign_snapshot(connection, signer, settings)
    return accepted


def checked(connection: Connection, roots: list[bytes], targets: bytes | None) -> Targets | None:
    """The new targets, where what came with them makes them right; nothing is stored. Raises DataError."""
    root = _new_roots(connection, roots)[-1:]
    trusted = root[0][0] if root else trusted_root(connection)
    if targets is None or trusted is None:
        return None
    new: Targets = verified(Metadata[Targets], targets, "targets", trusted)
    return new


def _accept_roots(connection: Connection, bodies: list[bytes]) -> Root | None:
    for root, body in _new_roots(connection, bodies):
        _store(connection, "root", root.version, body, root.expires)
    return trusted_root(connection)


def _new_roots(connection: Connection, bodies: list[bytes]) -> list[tuple[Root, bytes]]:
    """Each signed by the one before it and by itself. Raises DataError."""
    trusted, new_roots = trusted_root(connection), []
    for body in bodies:
        if len(body) > MAX_ROOT_BYTES:
            raise DataError(f"root metadata of {len(body)} bytes; devices take {MAX_ROOT_BYTES}: use fewer keys")
        try:
            new = Metadata[Root].from_bytes(body)
            (trusted or new.signed).verify_delegate("root", new.signed_bytes, new.signatures)
            new.signed.verify_delegate("root", new.signed_bytes, new.signatures)
        except (RepositoryError, ValueError) as error:
            raise DataError(f"root metadata: {error}") from error
        if trusted is not None and new.signed.version != trusted.version + 1:
            raise DataError(f"root version {new.signed.version}; the next one is {trusted.version + 1}")
        trusted = new.signed
        new_roots.append((trusted, body))
    return new_roots


def verified(kind: Any, body: bytes, role: str, root: Root) -> Any:
    """Raises DataError unless `role`'s keys signed it."""
    try:
        metadata = kind.from_bytes(body)
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise DataError(f"{role} metadata: {error}") from error
    return metadata.signed


def trusted_root(connection: Connection) -> Root | None:
    newest = latest(connection, "root")
    return Metadata[Root].from_bytes(newest.body).signed if newest else None


def jump(connection: Connection, signer: CryptoSigner, settings: Settings, now: float) -> None:
    """Sign snapshot and timestamp with versions beyond all that were signed after a backup, which nobody here knows.

    The version is the number of minutes since 2020: as many were never signed by then.
    """
    sign_snapshot(connection, signer, settings, int((now - FIRST_MINUTE) / 60))


def sign_snapshot(connection: Connection, signer: CryptoSigner, settings: Settings, least: int = 1) -> None:
    """With the next version, or `least` if that is more."""
    targets, before = latest(connection, "targets"), latest(connection, "snapshot")
    assert targets is not None
    expires = datetime.fromtimestamp(int(time.time() + 4 * settings.timestamp_seconds), timezone.utc)
    snapshot = Snapshot(
        max(least, before.version + 1 if before else 1), expires=expires, meta={"targets.json": MetaFile(targets.version)}
    )
    _sign(connection, "snapshot", snapshot, signer, settings)
    sign_timestamp(connection, signer, settings, least)


def sign_timestamp(connection: Connection, signer: CryptoSigner, settings: Settings, least: int = 1) -> None:
    snapshot, before = latest(connection, "snapshot"), latest(connection, "timestamp")
    assert snapshot is not None
    expires = datetime.fromtimestamp(int(time.time()), timezone.utc) + timedelta(seconds=settings.timestamp_seconds)
    timestamp = Timestamp(
        max(least, before.version + 1 if before else 1), expires=expires, snapshot_meta=MetaFile(snapshot.version)
    )
    _sign(connection, "timestamp", timestamp, signer, settings)


def expiries(connection: Connection) -> dict[str, float]:
    """When the newest metadata of each role expire."""
    newest = select(signed.c.role, func.max(signed.c.version).label("version")).group_by(signed.c.role).subquery()
    here = and_(signed.c.role == newest.c.role, signed.c.version == newest.c.version)
    return {row.role: row.expires for row in connection.execute(select(signed.c.role, signed.c.expires).join(newest, here))}


def renew(connection: Connection, signer: CryptoSigner, settings: Settings) -> bool:
    """Sign anew what is past half of its time; whether anything was."""
    rows = expiries(connection)
    if "timestamp" not in rows:
        return False
    now = time.time()
    if rows["snapshot"] - now < 2 * settings.timestamp_seconds:
        sign_snapshot(connection, signer, settings)
        return True
    if rows["timestamp"] - now < settings.timestamp_seconds / 2:
        sign_timestamp(connection, signer, settings)
        return True
    return False


def _sign(
    connection: Connection, role: str, payload: Snapshot | Timestamp, signer: CryptoSigner, settings: Settings
) -> None:  # fmt: skip
    """Raises UsageError where the clock has leapt, whoever asks: a publishing, a tick, a rollout that goes back."""
    clock.check(connection, time.time(), settings)
    metadata: Metadata[Any] = Metadata(payload)
    metadata.sign(signer)
    _store(connection, role, payload.version, metadata.to_bytes(), payload.expires)
    connection.execute(delete(signed).where(signed.c.role == role, signed.c.version <= payload.version - KEPT))


def _store(connection: Connection, role: str, version: int, body: bytes, expires: datetime) -> None:
    connection.execute(insert(signed).values(role=role, version=version, body=body, expires=expires.timestamp()))
