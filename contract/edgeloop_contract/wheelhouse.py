"""A wheelhouse: the agent and all that it needs as wheels, for one Python on one kind of machine, in one file.

It is a zip of the bundle's strict layout: `manifest.json`, then the wheels, none of them packed again. Equal wheels give equal
bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import msgspec

from edgeloop_contract import zip_layout
from edgeloop_contract.errors import BundleError, BundleTooNew
from edgeloop_contract.files import publishing
from edgeloop_contract.needs import AgentNeeds, Bytes, Text

__all__ = [
    "FORMAT", "MANIFEST_BEGINS", "MAX_MANIFEST_BYTES", "MAX_UNPACKED_BYTES", "Wheel", "Wheelhouse", "WheelhouseManifest",
    "manifest_from", "opened", "places", "write",
]  # fmt: skip

FORMAT = 1  # of the manifest
MANIFEST = "manifest.json"
MAX_WHEELS, MAX_MANIFEST_BYTES, MAX_UNPACKED_BYTES = 200, 1 << 20, 2 << 30
MANIFEST_BEGINS = zip_layout.LOCAL.size + len(MANIFEST)  # its bytes in the file: it is the first entry
WHEEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]{0,180}\.whl")
CHUNK = 1 << 20


class Wheel(msgspec.Struct, frozen=True):
    """One wheel: its file's name, and what it installs."""

    file: Text
    project: Text
    version: Text
    bytes: Bytes
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]


class WheelhouseManifest(AgentNeeds, frozen=True, kw_only=True):
    """Of the file. `left_out`: top-level packages that devices do not unpack."""

    wheels: Annotated[list[Wheel], msgspec.Meta(min_length=1, max_length=MAX_WHEELS)]
    left_out: Annotated[list[Text], msgspec.Meta(max_length=MAX_WHEELS)] = []
    format: int = FORMAT

    @property
    def needs(self) -> AgentNeeds:
        return AgentNeeds(**{name: getattr(self, name) for name in AgentNeeds.__struct_fields__})


class _Format(msgspec.Struct):
    format: int


class _Slice(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], begins: int, size: int) -> None:
        self._file, self._begins, self._size, self._at = file, begins, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "before the beginning")  # as a file does
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._begins + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class Wheelhouse:
    """An opened wheelhouse, its layout and manifest checked. A wheel's bytes are checked when it is opened."""

    def __init__(
        self, path: Path, file: IO[bytes], archive: zipfile.ZipFile, manifest: WheelhouseManifest, manifest_bytes: bytes
    ) -> None:
        self.path, self.manifest, self.manifest_bytes, self._file, self._archive = path, manifest, manifest_bytes, file, archive

    def bytes_of(self, wheel: Wheel) -> IO[bytes]:
        """The wheel's bytes, which are those of the manifest. Raises BundleError."""
        entry = self._archive.getinfo(wheel.file)
        begins = entry.header_offset + zip_layout.LOCAL.size + len(entry.orig_filename)
        found = io.BufferedReader(_Slice(self._file, begins, entry.file_size), CHUNK)
        digest = hashlib.sha256()
        while chunk := found.read(CHUNK):
            digest.update(chunk)
        if digest.hexdigest() != wheel.sha256:
            raise BundleError(f"{self.path}: {wheel.file} is not what the manifest says; make the wheelhouse again")
        found.seek(0)
        return found


@contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[Wheelhouse]:
    """Open a wheelhouse and check its layout. Raises BundleError with what is wrong; BundleTooNew for a later format."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size > max_bytes:
                raise BundleError(f"{path}: {size} bytes; the limit is {max_bytes}")
            archive = _archive(path, file, size)
            content = _manifest_bytes(path, file, archive)
            manifest = manifest_from(path, content)
            _check_contents(path, archive, manifest)
            yield Wheelhouse(path, file, archive, manifest, content)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _archive(path: Path, file: IO[bytes], size: int) -> zipfile.ZipFile:
    try:
        zip_layout.check_end(file, size, MAX_WHEELS + 1)
        archive = zipfile.ZipFile(file)
        zip_layout.check_entries(file, archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OverflowError) as error:
        raise BundleError(f"{path}: not a whole wheelhouse ({error}); make it with edgeloop pack-agent") from error
    names = [entry.orig_filename for entry in archive.infolist()]
    for entry in archive.infolist():
        regular = stat.S_IFMT(entry.external_attr >> 16) in (0, stat.S_IFREG)
        if not regular or entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~zip_layout.FLAGS:
            raise BundleError(
                f"{path}: not a wheelhouse ({entry.orig_filename!r} is compressed, or a link); make one with edgeloop pack-agent"
            )
        if entry.orig_filename != MANIFEST and not WHEEL_NAME.fullmatch(entry.orig_filename):
            raise BundleError(f"{path}: {entry.orig_filename!r} is no wheel's name; do not use this wheelhouse")
    if len(set(names)) < len(names) or MANIFEST not in names:
        raise BundleError(f"{path}: has no {MANIFEST}, or a file twice; this is not a wheelhouse")
    return archive


def _manifest_bytes(path: Path, file: IO[bytes], archive: zipfile.ZipFile) -> bytes:
    entry = archive.getinfo(MANIFEST)
    if entry.file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes; do not use this wheelhouse")
    return zip_layout.stored(file, entry)


def manifest_from(path: Path, content: bytes) -> WheelhouseManifest:
    """The manifest in these bytes. Raises BundleError; BundleTooNew for a later format."""
    try:
        if (later := msgspec.json.decode(content, type=_Format).format) > FORMAT:
            raise BundleTooNew(f"{path}: wheelhouse format {later}; this agent reads up to {FORMAT}: update it by its package")
        return msgspec.json.decode(content, type=WheelhouseManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: {MANIFEST}: {error}; make the wheelhouse again") from error


def _check_contents(path: Path, archive: zipfile.ZipFile, manifest: WheelhouseManifest) -> None:
    """Exactly the manifest's wheels, at the manifest's sizes."""
    sizes = {entry.orig_filename: entry.file_size for entry in archive.infolist() if entry.orig_filename != MANIFEST}
    if len(manifest.wheels) != len(sizes) or sizes != {wheel.file: wheel.bytes for wheel in manifest.wheels}:
        raise BundleError(f"{path}: its wheels are not those of its manifest; make the wheelhouse again")
    if manifest.unpacked_bytes > MAX_UNPACKED_BYTES:
        raise BundleError(f"{path}: unpacks to {manifest.unpacked_bytes} bytes; the limit is {MAX_UNPACKED_BYTES}")


def places(manifest: WheelhouseManifest, manifest_bytes: int) -> dict[str, int]:
    """Where in the file each wheel's bytes begin, as `write` lays it out, by the wheel's file name."""
    found, at = dict[str, int](), MANIFEST_BEGINS + manifest_bytes
    for wheel in sorted(manifest.wheels, key=lambda w: w.file):
        found[wheel.file] = at + zip_layout.LOCAL.size + len(wheel.file)
        at = found[wheel.file] + wheel.bytes
    return found


def write(path: Path, manifest: WheelhouseManifest, wheels: Sequence[Path]) -> None:
    """Write a wheelhouse beside `path`, and rename. Equal wheels give equal bytes. Raises OSError."""
    with publishing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry(MANIFEST), msgspec.json.format(msgspec.json.encode(manifest)))
        for wheel in sorted(wheels, key=lambda w: w.name):
            archive.writestr(_entry(wheel.name), wheel.read_bytes())


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    return entry
