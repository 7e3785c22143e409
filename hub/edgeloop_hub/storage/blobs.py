"""Bytes by name: a folder, or S3, Google's or Azure's storage by URL (obstore)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, from_url

from edgeloop_contract.errors import StorageError

CHUNK = 1 << 20
LOG = logging.getLogger("edgeloop_hub")


class Blobs:
    """`url`: empty for the folder. Raises StorageError."""

    def __init__(self, url: str, folder: Path) -> None:
        self._is_folder, self._unsigned_is_said = not url, False
        try:
            if url:
                plain = {"client_options": {"allow_http": True}} if url.startswith("s3") else {}
                self._store: Any = from_url(url, **plain)  # type: ignore[call-overload]
            else:
                self._store = LocalStore(folder, mkdir=True)
        except Exception as error:  # obstore's errors share no base
            raise StorageError(f"blobs: {url or folder}: {error}; check the address and its credentials") from error

    def put(self, name: str, content: bytes) -> None:
        self._do("write", lambda: obstore.put(self._store, name, content))

    def read(self, name: str, begins: int, ends: int) -> Iterator[bytes]:
        """Bytes from `begins` up to, not including, `ends`, in chunks."""
        for place in range(begins, ends, CHUNK):
            until = min(ends, place + CHUNK)
            yield self._do(
                "read", lambda place=place, until=until: bytes(obstore.get_range(self._store, name, start=place, end=until))
            )

    def address(self, name: str, seconds: float) -> str:
        """A signed address at which anybody may read these bytes for so long; "" for a folder, and where none can be signed."""
        if self._is_folder:
            return ""
        try:
            return str(obstore.sign(self._store, "GET", name, timedelta(seconds=seconds)))
        except Exception as error:  # obstore's errors share no base
            if not self._unsigned_is_said:
                why = str(error).splitlines()[0]
                LOG.warning("blobs: no address can be signed with these credentials (%s); the hub sends bundles' bytes itself", why)
            self._unsigned_is_said = True
            return ""

    def has(self, name: str) -> bool:
        try:
            self._do("look for", lambda: obstore.head(self._store, name))
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def delete(self, name: str) -> None:
        self._do("delete", lambda: obstore.delete(self._store, name))

    def put_file(self, name: str, path: Path) -> None:
        """A file's bytes, streamed."""
        self._do("write", lambda: obstore.put(self._store, name, path))

    def _do(self, what: str, action: Any) -> Any:
        try:
            return action()
        except Exception as error:  # obstore's errors share no base
            raise StorageError(f"blobs: cannot {what}: {str(error).splitlines()[0]}") from error
