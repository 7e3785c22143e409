"""All of a hub in one file, and back, whichever database and storage it used: tables as JSON lines, blobs as they are."""

from __future__ import annotations

import base64
import json
import os
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import LargeBinary, Table, func, insert, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub.hub import Hub
from edgeloop_hub.schema import bundles, metadata
from edgeloop_hub.settings import Settings

KEY = "online-key.pem"
PASSING = ("sessions", "tries", "parts")  # not worth keeping


def save(hub: Hub, path: Path) -> str:
    """Written beside and renamed, readable by its owner alone. One moment of the database; bundles never change."""
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    rows = 0
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
            with hub.database.writing() as database:
                for table in metadata.sorted_tables:
                    if table.name not in PASSING:
                        lines = [json.dumps(_plain(dict(row._mapping))) for row in database.execute(select(table))]
                        rows += len(lines)
                        _add(archive, f"tables/{table.name}.jsonl", "\n".join(lines).encode())
                kept = database.execute(select(bundles.c.sha256, bundles.c.bytes)).all()
            _add(archive, KEY, (hub.settings.data / KEY).read_bytes())
            for row in kept:
                with tempfile.TemporaryFile() as whole:
                    for chunk in hub.blobs.read(f"bundles/{row.sha256}", 0, row.bytes):
                        whole.write(chunk)
                    whole.seek(0)
                    entry = tarfile.TarInfo(f"bundles/{row.sha256}")
                    entry.size = row.bytes
                    archive.addfile(entry, whole)
            archive.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return f"{path}: {rows} rows, {len(kept)} bundles, and the hub's key"


def load(settings: Settings, path: Path) -> str:
    """Raises UsageError when the hub is not empty: nothing is ever written over."""
    if (settings.data / KEY).exists():
        raise UsageError(f"{settings.data}: there is a hub already; restore into an empty folder and database")
    try:
        with tarfile.open(path) as archive:
            files = {entry.name: entry for entry in archive if entry.isfile()}
            settings.data.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(settings.data / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(_content(archive, files[KEY]))
            hub, rows = Hub.open(settings), 0
            with hub.database.writing() as database:
                for table in metadata.sorted_tables:
                    if database.execute(select(func.count()).select_from(table)).scalar():
                        raise UsageError(
                            f"{settings.database_url}: table {table.name} is not empty; restore into an empty database"
                        )
                for name, entry in files.items():
                    if name.startswith("bundles/"):
                        hub.blobs.put(name, _content(archive, entry))
                for table in metadata.sorted_tables:
                    if f"tables/{table.name}.jsonl" in files:
                        lines = _content(archive, files[f"tables/{table.name}.jsonl"]).splitlines()
                        values = [_typed(table, json.loads(line)) for line in lines]
                        rows += len(values)
                        if values:
                            database.execute(insert(table), values)
                            hub.database.after_restore(database, table.name)
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: not a backup of a hub ({error})") from error
    return f"{rows} rows and {sum(n.startswith('bundles/') for n in files)} bundles are back"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, BytesIO(content))


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(entry)
    assert file is not None
    return file.read()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in row.items()}


def _typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    binary = {c.name for c in table.columns if isinstance(c.type, LargeBinary)}
    return {name: base64.b64decode(value) if name in binary and value is not None else value for name, value in row.items()}
