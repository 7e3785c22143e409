"""Restore a hub from a backup. The whole file is checked before anything is written; a failure takes back what it wrote."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner
from sqlalchemy import Connection, Float, Integer, LargeBinary, Table, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from edgeloop_contract.errors import DataError, EdgeloopError, UsageError
from edgeloop_hub import event_log
from edgeloop_hub.auth import audit
from edgeloop_hub.backup.save import DIGESTS
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.data_folder import BLOBS, DATABASE, KEY, RESTORING
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.schema import metadata, rollouts
from edgeloop_hub.updates import clock, signing

CHUNK = 1 << 20
MAX_ROW_BYTES = 64 << 20
DAMAGED = (tarfile.TarError, zlib.error, EOFError, ValueError, KeyError)
AFTER = (
    "rollouts that ran are paused. If anything was published after the backup, devices and the workstation know newer metadata: "
    "run edgeloop keys renew --after-restore on the workstation, then publish again what it names"
)


def load(settings: Settings, path: Path, who: str = "") -> str:
    """Fill an empty hub from a backup; returns what was done, in words. A failure leaves nothing behind. `who`: for the audit log.

    Raises UsageError when the hub is not empty, DataError for a damaged file.
    """
    begun = settings.data / RESTORING
    if (settings.data / KEY).exists() and not begun.exists():
        raise UsageError(f"{settings.data}: there is a hub already; restore into an empty folder and database")
    content = check(path)
    written = _Written(
        settings, folder=not settings.data.exists(), database=not (settings.data / DATABASE).exists() or begun.exists()
    )
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        begun.touch(0o600)
        if written.database:  # what a restore that was cut off had left
            written.drop_database()
        (settings.data / KEY).unlink(missing_ok=True)
        _fill(settings, path, content, written, who)
        begun.unlink()
    except SQLAlchemyError as error:
        written.take_back()
        raise DataError(f"{path}: rows that do not fit together ({str(error).splitlines()[0]}); nothing is left of them") from error
    except BaseException:  # an interruption too
        written.take_back()
        raise
    return f"{content.rows} rows and {len(content.bundles)} bundles are back; {AFTER}"


@dataclass
class _Written:
    """What a restore wrote, so that it can be taken back. `folder`, `database`: they were not there before."""

    settings: Settings
    folder: bool
    database: bool
    blobs: Blobs | None = None
    put: list[str] = field(default_factory=list)

    def drop_database(self) -> None:
        if not self.settings.database:
            for path in self.settings.data.glob(f"{DATABASE}*"):
                path.unlink()

    def take_back(self) -> None:
        """Each thing by itself: a blob that was not written cannot be deleted, and the rest goes all the same."""
        data = self.settings.data
        folders = (data / BLOBS / "bundles", data / BLOBS, *([data] if self.folder else []))
        steps: list[Callable[[], object]] = [partial(self._delete, name) for name in self.put]
        steps += [self.drop_database] if self.database else []
        steps += [partial((data / name).unlink, missing_ok=True) for name in (KEY, RESTORING)]
        for step in (*steps, *(folder.rmdir for folder in folders)):
            with contextlib.suppress(EdgeloopError, OSError):  # the failure itself is reported
                step()

    def _delete(self, name: str) -> None:
        if self.blobs is not None:
            self.blobs.delete(name)


@dataclass(frozen=True)
class _BackupContent:
    """What a backup holds, after all of it was read."""

    key: bytes
    rows: int
    bundles: tuple[str, ...]


def check(path: Path) -> _BackupContent:
    """Read everything once. Raises UsageError for a file that is no backup, DataError for one that is damaged or cut off."""
    digests: dict[str, str] = {}
    stated: dict[str, str] | None = None
    key, rows, needed = b"", 0, set[str]()
    try:
        with tarfile.open(path) as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                file = archive.extractfile(entry)
                assert file is not None
                if entry.name in digests:
                    raise ValueError(f"{entry.name} twice")
                if entry.name == DIGESTS:
                    stated = json.loads(file.read())
                    continue
                digest = hashlib.sha256()
                if entry.name.startswith("tables/"):
                    for row in _rows(_table(entry.name), file, digest):
                        rows += 1
                        needed |= {f"bundles/{row['sha256']}"} if entry.name == "tables/bundles.jsonl" else set()
                else:
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                        key += chunk if entry.name == KEY else b""
                digests[entry.name] = digest.hexdigest()
            while archive.fileobj is not None and archive.fileobj.read(CHUNK):  # to the checksum at the file's end
                pass
    except (tarfile.ReadError, IsADirectoryError) as error:
        raise _spoiled(path, error) from error
    except (*DAMAGED, OSError, RecursionError) as error:
        raise DataError(f"{path}: damaged, or cut off ({error}); nothing was written: take another backup") from error
    _compare(path, digests, stated, key, needed)
    return _BackupContent(key, rows, tuple(sorted(name for name in digests if name.startswith("bundles/"))))


def _spoiled(path: Path, error: Exception) -> EdgeloopError:
    """The error for a file that tarfile cannot read: a gzip stream is a damaged backup, anything else is no backup."""
    begins = b""
    if path.is_file():
        with path.open("rb") as file:
            begins = file.read(2)
    if begins == b"\x1f\x8b":
        return DataError(f"{path}: damaged, or cut off ({error}); nothing was written: take another backup")
    return UsageError(f"{path}: not a backup of a hub ({error})")


def _compare(path: Path, digests: dict[str, str], stated: dict[str, str] | None, key: bytes, needed: set[str]) -> None:
    if KEY not in digests or "tables/signed.jsonl" not in digests:
        raise UsageError(f"{path}: not a backup of a hub (there is no {KEY if KEY not in digests else 'table of signed metadata'})")
    bad = [name for name, digest in digests.items() if name.startswith("bundles/") and name != f"bundles/{digest}"]
    bad += sorted(needed - digests.keys())
    if stated is not None:  # an earlier release's backup says no digests
        bad += [name for name in (*stated, *digests) if stated.get(name) != digests.get(name)]
    try:
        _signer(key)
    except ValueError:
        bad.append(KEY)
    if bad:
        more = f" and {len(set(bad)) - 1} more" if len(set(bad)) > 1 else ""
        raise DataError(f"{path}: {bad[0]}{more} damaged or missing; nothing was written: take another backup")


def _signer(key: bytes) -> CryptoSigner:
    return CryptoSigner(load_pem_private_key(key, None))


def _table(name: str) -> Table:
    content = metadata.tables.get(name.removeprefix("tables/").removesuffix(".jsonl"))
    if content is None:
        raise ValueError(f"{name}: a table that this release does not know; is the backup of a later one?")
    return content


def _rows(table: Table, file: IO[bytes], digest: Any) -> Iterator[dict[str, Any]]:
    while line := file.readline(MAX_ROW_BYTES):
        digest.update(line)
        if line.strip():
            yield _typed(table, json.loads(line))


def _fill(settings: Settings, path: Path, content: _BackupContent, written: _Written, who: str) -> None:
    """Blobs first, then every row and the key in one transaction, with metadata that are newer than any device has seen."""
    if not settings.database:  # readable by its owner alone, from its first byte on
        os.close(os.open(settings.data / DATABASE, os.O_CREAT | os.O_RDWR, 0o600))
    if not settings.blobs:
        (settings.data / BLOBS).mkdir(mode=0o700, exist_ok=True)
    database, blobs = Database(settings.database_url), Blobs(settings.blobs, settings.data / BLOBS)
    written.blobs = blobs
    try:
        with database.writing() as connection:
            for table in metadata.sorted_tables:
                if connection.execute(select(func.count()).select_from(table)).scalar():
                    raise UsageError(f"{settings.database_url}: table {table.name} is not empty; restore into an empty database")
            with tarfile.open(path) as archive:
                for entry in archive:
                    if entry.isfile() and entry.name.startswith("bundles/"):
                        if blobs.has(entry.name):  # storage that is shared keeps what it had
                            continue
                        written.put.append(entry.name)
                        blobs.put(entry.name, _entry_bytes(archive, entry))
                    elif entry.isfile() and entry.name.startswith("tables/"):
                        table = _table(entry.name)
                        _insert(connection, table, archive, entry)
                        database.after_restore(connection, table.name)
            _begin_anew(connection, content, settings)
            audit.append(connection, who, "restored", str(path))
            _write_key(settings, content.key)
    finally:
        database.engine.dispose()


def _insert(connection: Connection, table: Table, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
    file = archive.extractfile(entry)
    assert file is not None
    waiting: list[dict[str, Any]] = []
    for row in _rows(table, file, hashlib.sha256()):
        waiting.append(row)
        if len(waiting) == 500:
            connection.execute(insert(table), waiting)
            waiting = []
    if waiting:
        connection.execute(insert(table), waiting)


def _begin_anew(connection: Connection, content: _BackupContent, settings: Settings) -> None:
    """Pause running rollouts, and sign metadata with versions above all earlier ones: devices take no older ones."""
    now = time.time()
    running = rollouts.c.state == "running"
    connection.execute(
        update(rollouts).where(running).values(state="paused", reason="the hub was restored from a backup", step_began=now)
    )
    clock.believe(connection, now)
    if signing.latest(connection, "targets") is not None:
        signing.jump(connection, _signer(content.key), settings, now)
    event_log.record(connection, "restored", "from a backup")


def _write_key(settings: Settings, key: bytes) -> None:
    descriptor = os.open(settings.data / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())


def _entry_bytes(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file is not None
    return file.read()


def _typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row as the table has it. Raises ValueError for columns that it does not have, or values of another kind."""
    if not isinstance(row, dict) or not row.keys() <= set(table.columns.keys()):
        raise ValueError(f"table {table.name}: a row that is none of this release's")
    return {name: _value(table.columns[name], value) for name, value in row.items()}


def _value(column: Any, value: Any) -> Any:
    if value is None and column.nullable:
        return None
    if isinstance(column.type, LargeBinary) and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    kinds = (int, float) if isinstance(column.type, (Float, Integer)) else (str,)
    if isinstance(value, kinds):
        return value
    raise ValueError(f"table {column.table.name}: {column.name} cannot be {str(value)[:50]!r}")
