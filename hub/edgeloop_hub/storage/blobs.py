"""Bytes by name: a folder, or S3, Google's or Azure's storage by URL (obstore)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, from_url

from edgeloop_contract.errors import StorageError

CHUNK = 1 << 20


class Blobs:
    """`url`: empty for the folder. Raises StorageError."""

    def __init__(self, url: str, folder: Path) -> None:
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
