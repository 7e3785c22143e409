"""A delta between two versions of a bundle: what the workstation makes at publishing, and a device applies.

    EDGELOOP-DELTA-1\\n · the header's length, 4 bytes, little-endian · header, MessagePack of DeltaHeader · a patch, BSDIFF40

The patch leads from one bundle to the other with their compressed entries unpacked: of deflated weights hardly a byte stays in
its place. Its format is bsdiff 4.x's (Colin Percival): a control block, differences, and new bytes, each a bzip2 stream. It is read
piece by piece, so the memory that it takes does not depend on what it says; what it may write is bounded by the header, and that by
what was signed. Whoever applies it compares the digest of the result.
"""

from __future__ import annotations

import bz2
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from edgeloop_contract import zip_layout
from edgeloop_contract.errors import BundleError
from edgeloop_contract.field_types import Sha256

__all__ = ["DELTA_MAGIC", "DeltaHeader", "Segment", "applied", "delta_file", "expanded", "read_header", "squeezed"]

DELTA_MAGIC = b"EDGELOOP-DELTA-1\n"
BSDIFF = struct.Struct("<8s3q")
MAX_HEADER_BYTES = 1 << 20
CHUNK = 1 << 16
USUAL_LEVEL = 6  # of zipfile where an entry has none of its own
SPARE_CONTROLS = 10_000  # steps of a patch beyond one for every eight bytes: more are not made by any diff
WRONG = (ValueError, OSError, EOFError, zlib.error, struct.error, zipfile.BadZipFile, msgspec.MsgspecError, NotImplementedError)


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """So many bytes of the unpacked form, which are deflated in the bundle with this level, or (0) stand there as they are."""

    bytes: int
    level: int = 0


class DeltaHeader(msgspec.Struct, frozen=True):
    """`bytes`: of the new bundle; `segments`: of its unpacked form, in order."""

    from_sha256: Sha256
    to_sha256: Sha256
    bytes: int
    segments: list[Segment]

    @property
    def unpacked_bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)


def delta_file(header: DeltaHeader, patch: bytes) -> bytes:
    encoded = msgspec.msgpack.encode(header)
    return DELTA_MAGIC + struct.pack("<I", len(encoded)) + encoded + patch


def read_header(file: IO[bytes], max_unpacked_bytes: int) -> DeltaHeader:
    """Leaves `file` at the patch. Raises BundleError."""
    try:
        if file.read(len(DELTA_MAGIC)) != DELTA_MAGIC:
            raise ValueError("it does not begin as one")
        (length,) = struct.unpack("<I", file.read(4))
        if length > MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = msgspec.msgpack.decode(file.read(length), type=DeltaHeader)
        if (
            any(s.bytes < 0 or not 0 <= s.level <= 9 for s in header.segments)
            or not 0 <= header.unpacked_bytes <= max_unpacked_bytes
        ):
            raise ValueError(f"it unpacks to {header.unpacked_bytes} bytes; the limit is {max_unpacked_bytes}")
    except WRONG as error:
        raise BundleError(f"not a delta ({error})") from error
    return header


def expanded(bundle: Path, out: IO[bytes], level: int = USUAL_LEVEL) -> list[Segment]:
    """Write the unpacked form of a verified bundle; returns its segments, deflated with `level`. Raises BundleError."""
    segments = []
    try:
        with bundle.open("rb") as file, zipfile.ZipFile(file) as archive:
            place = 0
            for entry in sorted(archive.infolist(), key=lambda e: e.header_offset):
                begins = entry.header_offset + zip_layout.LOCAL.size + len(entry.orig_filename)
                head = begins - place
                if entry.compress_type == zipfile.ZIP_DEFLATED:
                    segments.append(_copied(file, place, head, out))
                    for piece in zip_layout.unpacked(file, entry):
                        out.write(piece)
                    segments.append(Segment(entry.file_size, level))
                else:
                    segments.append(_copied(file, place, head + entry.compress_size, out))
                place = begins + entry.compress_size
            segments.append(_copied(file, place, file.seek(0, 2) - place, out))
    except WRONG as error:
        raise BundleError(f"{bundle}: cannot be unpacked ({error})") from error
    return segments


def _copied(file: IO[bytes], place: int, count: int, out: IO[bytes]) -> Segment:
    file.seek(place)
    left = count
    while left:
        piece = file.read(min(CHUNK, left))
        if not piece:
            raise ValueError("it ends too early")
        out.write(piece)
        left -= len(piece)
    return Segment(count)


def squeezed(pieces: Iterator[bytes], segments: list[Segment]) -> Iterator[bytes]:
    """The bundle of an unpacked form, in pieces: its segments deflated as they say."""
    piece = b""
    for segment in segments:
        left = segment.bytes
        deflate = zlib.compressobj(segment.level, zlib.DEFLATED, -zlib.MAX_WBITS) if segment.level else None
        while left:
            piece = piece or next(pieces, b"")
            if not piece:
                raise ValueError("it ends too early")
            part, piece = piece[:left], piece[left:]
            left -= len(part)
            yield part if deflate is None else deflate.compress(part)
        if deflate is not None:
            yield deflate.flush()


class _Stream:
    """One bzip2 stream of a patch, unpacked as far as it is asked for."""

    def __init__(self, path: Path, begins: int, ends: int) -> None:
        self._file, self._left = path.open("rb"), ends - begins
        self._file.seek(begins)
        self._inflate = bz2.BZ2Decompressor()

    def read(self, count: int) -> bytes:
        """Raises ValueError where there are fewer bytes."""
        made = bytearray()
        while len(made) < count:
            if self._inflate.eof:
                raise ValueError("a stream of it is too short")
            packed = b""
            if self._inflate.needs_input:
                packed = self._file.read(min(CHUNK, self._left))
                self._left -= len(packed)
                if not packed:
                    raise ValueError("a stream of it is cut off")
            made += self._inflate.decompress(packed, count - len(made))
        return bytes(made)

    def close(self) -> None:
        self._file.close()


def _signed(raw: bytes) -> int:
    """A number as bsdiff writes it: the sign is the highest bit."""
    value = int.from_bytes(raw, "little")
    return -(value & ~(1 << 63)) if value >> 63 else value


def _patched(old: IO[bytes], old_bytes: int, delta: Path, begins: int, count: int) -> Iterator[bytes]:
    """The new unpacked form, `count` bytes of it, in pieces. Raises ValueError."""
    with delta.open("rb") as file:
        file.seek(begins)
        magic, control_bytes, diff_bytes, new_bytes = BSDIFF.unpack(file.read(BSDIFF.size))
        end = file.seek(0, 2)
    first = begins + BSDIFF.size
    second, third = first + control_bytes, first + control_bytes + diff_bytes
    if magic != b"BSDIFF40" or control_bytes < 0 or diff_bytes < 0 or third > end or new_bytes != count:
        raise ValueError("its patch has a wrong head")
    streams = [_Stream(delta, first, second), _Stream(delta, second, third), _Stream(delta, third, end)]
    controls, diffs, extras = streams
    try:
        made = place = steps = 0
        while made < count:
            raw = controls.read(24)
            added, inserted, skip = (_signed(raw[i : i + 8]) for i in (0, 8, 16))
            steps += 1
            if added < 0 or inserted < 0 or made + added + inserted > count or steps > count // 8 + SPARE_CONTROLS:
                raise ValueError("its patch writes more than it says")
            for left in _pieces(added):
                yield _sum(diffs.read(left), _old(old, old_bytes, place, left))
                place += left
            for left in _pieces(inserted):
                yield extras.read(left)
            made, place = made + added + inserted, place + skip
    finally:
        for stream in streams:
            stream.close()


def _pieces(count: int) -> Iterator[int]:
    while count > 0:
        yield min(CHUNK, count)
        count -= CHUNK


def _sum(difference: bytes, old: bytes) -> bytes:
    return (np.frombuffer(difference, np.uint8) + np.frombuffer(old, np.uint8)).tobytes()


def _old(old: IO[bytes], old_bytes: int, place: int, count: int) -> bytes:
    """Zeros where there is none."""
    before = min(max(0, -place), count)
    begins = max(0, place)
    content = b""
    if begins < old_bytes and before < count:
        old.seek(begins)
        content = old.read(count - before)
    return (b"\0" * before + content).ljust(count, b"\0")


def applied(delta: Path, header: DeltaHeader, begins: int, old: IO[bytes], old_bytes: int) -> Iterator[bytes]:
    """The new bundle in pieces, never more than the header's bytes. `old`: the unpacked form of the bundle that is here.

    `begins`: of the patch in the file `delta`. Raises BundleError.
    """
    left = header.bytes
    try:
        for piece in squeezed(_patched(old, old_bytes, delta, begins, header.unpacked_bytes), header.segments):
            left -= len(piece)
            if left < 0:
                raise ValueError("it makes more bytes than it says")
            yield piece
        if left:
            raise ValueError("it makes fewer bytes than it says")
    except WRONG as error:
        raise BundleError(f"the delta cannot be applied ({error})") from error
