"""Deltas between the last published version of a bundle and a new one, made where it is published."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import IO

from tuf.api.metadata import TargetFile

from edgeloop_contract.archive import BundleLimits
from edgeloop_contract.bundle_delta import DeltaHeader, Segment, applied, delta_file, expanded, read_header, squeezed
from edgeloop_contract.publications import DELTA

MAX_BYTES = 64 << 20  # of an unpacked bundle: bsdiff sorts the old one's suffixes, in sixteen times its bytes
LEVELS = (6, 9)  # of deflate, as bundles are written
WORTH = 0.6  # share of the whole that a delta has at most


def make(old: Path, new: Path) -> bytes | None:
    """The delta from one bundle to another; None where it is not worth its bytes. Raises BundleError.

    It is applied here once: what does not give the new bundle, byte by byte, is no delta.
    """
    import bsdiff4

    with tempfile.TemporaryFile() as before, tempfile.TemporaryFile() as after:
        expanded(old, before)
        segments = next((s for s in (expanded(new, _emptied(after), level) for level in LEVELS) if _gives(after, s, new)), None)
        if segments is None:
            return None
        if max(before.tell(), after.tell()) > MAX_BYTES:
            return None
        patch = bsdiff4.diff(_content(before), _content(after))
        whole = new.read_bytes()
        header = DeltaHeader(_sha256(old.read_bytes()), _sha256(whole), len(whole), segments)
        delta = delta_file(header, patch)
        if len(delta) > WORTH * len(whole) or _applied(delta, before) != whole:
            return None
    return delta


def _emptied(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    file.truncate()
    return file


def _gives(unpacked: IO[bytes], segments: list[Segment], bundle: Path) -> bool:
    """Whether the bundle comes again of its unpacked form: it was deflated with this level, by this library."""
    return b"".join(squeezed(iter([_content(unpacked)]), segments)) == bundle.read_bytes()


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _applied(delta: bytes, before: IO[bytes]) -> bytes:
    size = before.seek(0, 2)
    with tempfile.NamedTemporaryFile() as kept:
        kept.write(delta)
        kept.flush()
        kept.seek(0)
        header = read_header(kept, BundleLimits().max_unpacked_bytes)
        return b"".join(applied(Path(kept.name), header, kept.tell(), before, size))


def target_of(delta: bytes, from_sha256: str, to_target: str) -> tuple[str, TargetFile]:
    """A delta's name as a target, and what is signed of it."""
    digest = _sha256(delta)
    name = f"{Path(to_target).stem}-from-{from_sha256[:8]}.delta"
    custom = {"kind": DELTA, "from": from_sha256, "to": to_target}
    return name, TargetFile(len(delta), {"sha256": digest}, name, {"custom": custom})


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
