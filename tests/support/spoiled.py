"""The golden bundle, spoiled in the ways that Python's own readers forgive."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgeloop_contract import archive, zip_layout
from serving import GOLDEN

END = zip_layout.END.size
Change = Callable[[dict[str, Any], dict[str, bytes]], None]


def parts(path: Path = GOLDEN) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(path) as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist()}
    return json.loads(files.pop("manifest.json")), files


def rebuilt(path: Path, change: Change) -> Path:
    """The golden bundle with its manifest or files changed, as a writer without checks would write it."""
    manifest, files = parts()
    change(manifest, files)
    return written(path, manifest, files)


def written(path: Path, manifest: dict[str, Any], files: dict[str, bytes]) -> Path:
    """A bundle of these, whatever they are, with the digests made right."""
    manifest["files"] = msgspec.to_builtins(archive.describe(files))
    content = {"manifest.json": msgspec.json.encode(manifest, order="sorted"), **dict(sorted(files.items()))}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in content.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(info, data)
    return path


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values))
    return buffer.getvalue()


def moved(data: bytes, at: int, extra: bytes) -> bytes:
    """`extra` put in front of the directory's byte `at`, with every offset behind it corrected."""
    *head, length, offset, comment = zip_layout.END.unpack(data[-END:])
    directory, place, out = data[offset : offset + length], 0, b""
    while place < len(directory):
        entry = bytearray(directory[place : place + 46])
        names = sum(struct.unpack("<3H", entry[28:34]))
        begins = struct.unpack("<L", entry[42:46])[0]
        entry[42:46] = struct.pack("<L", begins + (len(extra) if begins >= at else 0))
        out += bytes(entry) + directory[place + 46 : place + 46 + names]
        place += 46 + names
    return data[:at] + extra + data[at:offset] + out + zip_layout.END.pack(*head, length, offset + len(extra), comment)


def between_entries(data: bytes) -> bytes:
    second = sorted(e.header_offset for e in zipfile.ZipFile(io.BytesIO(data)).infolist())[1]
    return moved(data, second, b"x" * 25_000)


def before_the_directory(data: bytes) -> bytes:
    return moved(data, zip_layout.END.unpack(data[-END:])[6], b"x" * 25_000)


def with_zipinfo(field: str, value: bytes) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                info = zipfile.ZipInfo(entry.filename)
                info.compress_type = zipfile.ZIP_DEFLATED
                setattr(info, field, value)
                new.writestr(info, old.read(entry))
        return out.getvalue()

    return spoil


def behind_a_stream(data: bytes) -> bytes:
    """The first entry's deflate stream ends, and 25 kB follow it inside of its compressed size."""
    (_, files), out = parts(), io.BytesIO()
    manifest = zipfile.ZipFile(io.BytesIO(data)).read("manifest.json")
    with zipfile.ZipFile(out, "w") as new:
        for name, content in {"manifest.json": manifest, **files}.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o100644 << 16
            new.writestr(info, content)
    # Rewrite by hand: every entry deflated, the first with a tail.
    body, directory = b"", b""
    for i, entry in enumerate(zipfile.ZipFile(io.BytesIO(out.getvalue())).infolist()):
        content = manifest if entry.filename == "manifest.json" else files[entry.filename]
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflate.compress(content) + deflate.flush() + (b"y" * 25_000 if i == 0 else b"")
        name, crc, begins = entry.filename.encode(), zlib.crc32(content), len(body)
        common = (20, 0, 8, 0, 33, crc, len(packed), len(content), len(name), 0)
        body += struct.pack("<4s5H3L2H", b"PK\x03\x04", *common) + name + packed
        directory += struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *common, 0, 0, 0, 0o100644 << 16, begins) + name
    count = len(files) + 1
    return body + directory + zip_layout.END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), len(body), 0)
