"""Secrets that are shown once and stored as digests. They have 256 bits, so a plain digest hides them; passwords get argon2."""

from __future__ import annotations

import hashlib
import secrets


def make(kind: str) -> tuple[str, str]:
    """A new secret, such as `device-…`, and the digest to store."""
    secret = f"{kind}-{secrets.token_urlsafe(32)}"
    return secret, digest(secret)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
