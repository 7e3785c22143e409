"""All of a hub in one file, whichever database and storage it used: tables as JSON lines, blobs as they are.

The last entry says the digest of every other one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from sqlalchemy import select

from edgeloop_contract.errors import DataError
from edgeloop_contract.files import publishing
from edgeloop_hub.hub import Hub
from edgeloop_hub.storage.blobs import Blobs
from edgeloop_hub.storage.data_folder import KEY
from edgeloop_hub.storage.schema import ADDED, bundles, deltas, metadata

TEMPORARY = ("sessions", "tries", "parts", "oidc_sign_ins", "oidc_sessions", "oidc_logouts")  # tables that a backup leaves out
DIGESTS = "digests.json"


def save(hub: Hub, path: Path) -> str:
    """Write a backup, readable by its owner alone; returns what was written, in words.

    It is written beside and renamed. The database is read at one moment; bundles never change.
    """
    rows, digests = 0, dict[str, str]()
    with publishing(path, 0o600) as file, tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        with hub.database.writing() as database:
            for table in metadata.sorted_tables:
                if table.name not in TEMPORARY:
                    lines = [json.dumps(_plain(dict(row._mapping))) for row in database.execute(select(table))]
                    if table in ADDED and not lines:
                        continue  # an earlier release does not know it, and can restore the rest
                    rows += len(lines)
                    name = f"tables/{table.name}.jsonl"
                    digests[name] = _add(archive, name, "\n".join(lines).encode())
            kept = [
                row for table in (bundles, deltas) for row in database.execute(select(table.c.sha256, table.c.bytes).distinct())
            ]
        digests[KEY] = _add(archive, KEY, (hub.settings.data / KEY).read_bytes())
        for row in kept:
            digests[f"bundles/{row.sha256}"] = _add_bundle(archive, hub.blobs, row.sha256, row.bytes)
        _add(archive, DIGESTS, json.dumps(digests).encode())
    return f"{path}: {rows} rows, {len(kept)} bundles, and the hub's key"


def _add_bundle(archive: tarfile.TarFile, blobs: Blobs, sha256: str, size: int) -> str:
    """Raises DataError for a bundle that is damaged in the storage."""
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as whole:
        for chunk in blobs.read(f"bundles/{sha256}", 0, size):
            digest.update(chunk)
            whole.write(chunk)
        if digest.hexdigest() != sha256:
            raise DataError(f"bundle {sha256[:12]}: damaged in the hub's storage; bring the file back from an earlier backup first")
        whole.seek(0)
        entry = tarfile.TarInfo(f"bundles/{sha256}")
        entry.size = size
        archive.addfile(entry, whole)
    return sha256


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> str:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, BytesIO(content))
    return hashlib.sha256(content).hexdigest()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in row.items()}
