"""Passwords of people, as argon2 hashes."""

from __future__ import annotations

import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

HASHER = PasswordHasher()


@cache
def _nobody() -> str:
    """A hash that no password has: with it an unknown name takes as long as a wrong password."""
    return HASHER.hash(secrets.token_urlsafe(32))


def password_is_right(stored: str | None, password: str) -> bool:
    try:
        return HASHER.verify(stored or _nobody(), password) and stored is not None
    except (Argon2Error, InvalidHashError):
        return False
