"""Files of settings in the hub's folder: TOML, secrets beside it, and addresses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgeloop_contract.errors import UsageError

MAX_SECRET_BYTES = 4096


def toml_of(path: Path) -> dict[str, Any] | None:
    """What the file says; None where there is no file. Raises UsageError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({_reason(error)}); correct it, or move it away") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML ({error}); correct that line") from error


def secret(path: Path) -> str:
    """The first line of a file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SECRET_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({_reason(error)})") from error
    line = text.strip()
    if not line or len(text) > MAX_SECRET_BYTES or not line.isprintable():
        raise UsageError(f"{path}: expected one line of text")
    return line


def is_address(url: str) -> bool:
    """Whether it is an http:// or https:// address."""
    try:
        named = urlsplit(url)
        return (
            named.scheme in ("http", "https") and bool(named.hostname) and named.port != 0 and url.isprintable() and " " not in url
        )
    except ValueError:  # half an IPv6 address, or a port that is no number
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
