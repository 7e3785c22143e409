"""Credentials that this process has seen to be a device's. A hint, never a proof: whoever acts on one asks the database again."""

from __future__ import annotations

from edgeloop_hub.auth import secret_digests

MAX_KNOWN = 100_000  # some 20 MB


class KnownCredentials:
    """Names of devices by the digests of their credentials; the one that was first noted goes first."""

    def __init__(self, most: int = MAX_KNOWN) -> None:
        self._names: dict[str, str] = {}
        self._most = most

    def note(self, secret: str, name: str) -> None:
        digest = secret_digests.digest(secret)
        if digest not in self._names and len(self._names) >= self._most:
            self._names.pop(next(iter(self._names), ""), None)
        self._names[digest] = name

    def name_of(self, secret: str) -> tuple[str, str] | None:
        """(digest, name)"""
        digest = secret_digests.digest(secret)
        name = self._names.get(digest)
        return None if name is None else (digest, name)
