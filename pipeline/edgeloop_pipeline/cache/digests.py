"""Computes digests of files, folders and values."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from edgeloop_contract.errors import DataError


def sha256(path: Path, suffix: str = "") -> str:
    """The hex digest of a file; for a folder, over the sorted names and digests of its files that end in `suffix`.

    Raises DataError when one cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(p for p in path.rglob(f"*{suffix}") if p.is_file()):
                digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
            return digest.hexdigest()
        with path.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error
    return digest.hexdigest()


def digest(parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
