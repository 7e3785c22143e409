"""The bytes of a bundle's zip, held to the one layout that `archive.write` makes: entry after entry, directory, end.

Python's zipfile forgives what stands between these parts, in extra fields and comments, or behind the end of a deflate
stream. Whoever checks a signature over a bundle does not expect a second message there, so none is accepted.
Source: PKWARE's APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO

__all__ = ["END", "FLAGS", "check_end", "check_entries", "stored", "unpacked"]

END = struct.Struct("<4s4H2LH")
LOCAL = struct.Struct("<4s5H3L2H")
DIRECTORY_BYTES = 46  # of one entry in the directory, without its name
FLAGS = 0x800  # UTF-8 names are harmless; every other flag changes how an entry is read
CHUNK = 1 << 20


def check_end(file: IO[bytes], size: int, max_files: int) -> None:
    """The last 22 bytes, before zipfile reads a directory as long as it likes. Raises ValueError with what is wrong."""
    if size < END.size:
        raise ValueError("it is too short")
    file.seek(size - END.size)
    signature, disk, first_disk, here, entries, length, offset, comment = END.unpack(file.read(END.size))
    if signature != b"PK\x05\x06" or comment or disk or first_disk or here != entries:
        raise ValueError("it does not end as a bundle does")
    if entries > max_files:
        raise ValueError(f"it has {entries} files, the limit is {max_files}")
    if offset + length + END.size != size:
        raise ValueError("its directory does not end where the file does")


def check_entries(file: IO[bytes], archive: zipfile.ZipFile) -> None:
    """Every entry begins where the one before it ended, and says the same as the directory. Raises ValueError."""
    place = 0
    for entry in sorted(archive.infolist(), key=lambda e: e.header_offset):
        name = entry.orig_filename.encode("ascii", "replace")
        file.seek(entry.header_offset)
        head = file.read(LOCAL.size + len(name))
        if entry.header_offset != place or len(head) != LOCAL.size + len(name):
            raise ValueError(f"there are data before {entry.filename!r}")
        signature, _, flags, method, _, _, crc, packed, unpacked, name_bytes, extra = LOCAL.unpack(head[: LOCAL.size])
        same = (flags, method, crc, packed, unpacked) == (
            entry.flag_bits, entry.compress_type, entry.CRC, entry.compress_size, entry.file_size
        )  # fmt: skip
        if signature != b"PK\x03\x04" or not same or head[LOCAL.size :] != name or name_bytes != len(name):
            raise ValueError(f"{entry.filename!r} is described in two ways")
        if flags & ~FLAGS:
            raise ValueError(f"{entry.filename!r} is packed in a way bundles are not")
        if extra or entry.extra or entry.comment:
            raise ValueError(f"{entry.filename!r} has extra fields or a comment")
        place += len(head) + entry.compress_size
    length = sum(DIRECTORY_BYTES + len(e.orig_filename) for e in archive.infolist())
    if place != archive.start_dir or place + length + END.size != file.seek(0, 2):
        raise ValueError("there are data before its directory, or in it")


def stored(file: IO[bytes], entry: zipfile.ZipInfo) -> bytes:
    """The content of an entry that is not compressed, in one read, for callers that compare a digest: without its checksum."""
    file.seek(entry.header_offset + LOCAL.size + len(entry.orig_filename))
    return file.read(entry.file_size)


def unpacked(file: IO[bytes], entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of one entry in pieces, never more than its header promises.

    Raises ValueError or zlib.error when it is not exactly one whole stream of the promised size and checksum.
    """
    place, left = entry.header_offset + LOCAL.size + len(entry.orig_filename), entry.compress_size
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    size = crc = 0
    waiting = b""
    while left or waiting:
        if not waiting:
            file.seek(place)
            waiting = file.read(min(CHUNK, left))
            if not waiting:
                raise ValueError("it ends too early")
            place, left = place + len(waiting), left - len(waiting)
        if inflate is None:
            piece, waiting = waiting, b""
        elif inflate.eof:
            raise ValueError("data follow its end")
        else:
            piece = inflate.decompress(waiting, CHUNK)
            waiting = inflate.unconsumed_tail or inflate.unused_data
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        if size > entry.file_size:
            raise ValueError(f"it unpacks to more than {entry.file_size} bytes")
        yield piece
    if inflate is not None and (piece := inflate.flush()):  # the few bytes that a full piece held back
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        yield piece
    if size != entry.file_size or crc != entry.CRC or (inflate is not None and not inflate.eof):
        raise ValueError("it is damaged or cut short")
