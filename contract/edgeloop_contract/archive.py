"""The bundle file: a zip read strictly and written reproducibly. What was verified is what gets loaded.

The file is opened once; every read comes from that descriptor and is checked against the manifest's digest again.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import msgspec
import numpy as np

from edgeloop_contract import canary_consistency, consistency, npy, zip_layout
from edgeloop_contract.errors import BundleError, StorageError
from edgeloop_contract.files import publishing
from edgeloop_contract.manifest import File, Manifest
from edgeloop_contract.manifest_json import decode, encode

__all__ = ["Bundle", "BundleLimits", "VerifiedFile", "VerifiedFiles", "describe", "write"]

MANIFEST = "manifest.json"
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
CHUNK = 1 << 20
JUDGED = 2 << 20
WORTH = 0.9  # share of a file's bytes that deflate must leave at most


class BundleLimits(msgspec.Struct, frozen=True):
    """What a device is willing to read, in bytes and files."""

    max_bundle_bytes: int = 512 << 20
    max_unpacked_bytes: int = 1 << 30
    max_manifest_bytes: int = 4 << 20
    max_files: int = 256


class VerifiedFile(msgspec.Struct, frozen=True):
    """A bundle file that was verified whole, with its manifest's digest.

    `place`: its device, inode and bytes, and when its content and its entry in the file system last changed (ns since 1970).
    """

    sha256: str
    manifest: str
    place: tuple[int, int, int, int, int]


class VerifiedFiles(Protocol):
    """The bundle files that were verified here."""

    def __iter__(self) -> Iterator[VerifiedFile]: ...
    def add(self, verified: VerifiedFile, /) -> None: ...


class Bundle:
    """An opened, fully verified bundle. Use as a context manager, or `close()` it."""

    def __init__(
        self, path: Path, file: IO[bytes], archive: zipfile.ZipFile, manifest: Manifest, known: VerifiedFile | None
    ) -> None:
        """`known`: this very file, unchanged since it was verified."""
        self.path, self.manifest, self.sha256 = path, manifest, known.sha256 if known else _digest(file)
        self._file, self._archive, self._known = file, archive, known is not None

    @classmethod
    def open(cls, path: Path, limits: BundleLimits = BundleLimits(), verified: VerifiedFiles | None = None) -> Bundle:
        """Open and verify everything: names, sizes, digests, schema. Raises BundleError with what is wrong.

        `verified`: what is verified here is added. Of a file with these bytes not all parts need be unpacked again, and a file that
        has not changed since need not even be hashed: the manifest, and what is read by it, are checked by their digests anyway.
        """
        try:
            file = path.open("rb")
        except OSError as error:
            raise BundleError(f"{path}: cannot be opened ({error.strerror}); check the path") from error
        try:
            return cls._verified(path, file, limits, verified)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _verified(cls, path: Path, file: IO[bytes], limits: BundleLimits, verified: VerifiedFiles | None) -> Bundle:
        place = _place(file)
        size = place[2]
        if size > limits.max_bundle_bytes:
            raise BundleError(f"{path}: {size} bytes; the limit is {limits.max_bundle_bytes}: raise it or ship less")
        archive = _opened(path, file, size, limits)
        written = _read(path, file, archive, MANIFEST, limits.max_manifest_bytes)
        manifest = decode(written, str(path))
        _check_contents(path, archive, manifest)
        earlier, of_manifest = list(verified or ()), hashlib.sha256(written).hexdigest()
        bundle = cls(
            path, file, archive, manifest, next((e for e in earlier if (e.place, e.manifest) == (place, of_manifest)), None)
        )
        if not bundle._known:
            if bundle.sha256 not in {e.sha256 for e in earlier}:
                for name in manifest.files:
                    bundle._check(name)
                bundle._check_canary()
            if verified is not None and _place(file) == place:  # nobody wrote to it meanwhile
                verified.add(VerifiedFile(bundle.sha256, of_manifest, place))
        return bundle

    def read(self, name: str) -> bytes:
        """The bytes of one file, checked as they are read. Raises BundleError when they are not what the manifest says."""
        with self.loading(name) as data:
            return data

    @contextmanager
    def loading(self, name: str) -> Iterator[bytes]:
        """As `read`, for a block that makes something of the bytes.

        Where this very file was verified before and has not changed since, they are hashed while the block runs, at the latest
        when it ends; else before. So a runtime sees no bytes of a file that was never verified, and seldom waits for a digest.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: has no file {name!r}")
        packed = self._archive.getinfo(name)
        if packed.compress_type == zipfile.ZIP_STORED:
            with _unpacking(self.path, name):
                data = zip_layout.stored(self._file, packed)
        else:
            data = _read(self.path, self._file, self._archive, name, entry.bytes)
        if not self._known or len(data) < CHUNK:
            self._compare(name, [hashlib.sha256(data).hexdigest()])
            yield data
            return
        found: list[str] = []
        begun = threading.Event()

        def compute() -> None:
            begun.set()
            found.append(hashlib.sha256(data).hexdigest())

        thread = threading.Thread(target=compute, daemon=True)
        thread.start()
        begun.wait()  # from here on it needs no lock of Python's, which a runtime may hold while it loads
        try:
            yield data
        finally:
            thread.join()
            self._compare(name, found)

    def _compare(self, name: str, found: list[str]) -> None:
        if found != [self.manifest.files[name].sha256]:
            raise BundleError(f"{self.path}: {name} is not what the manifest says; download the bundle again")

    def _check(self, name: str) -> None:
        """The check of `read`, in pieces: a device may not have memory for the largest file."""
        digest = hashlib.sha256()
        with _unpacking(self.path, name):
            for piece in zip_layout.unpacked(self._file, self._archive.getinfo(name)):
                digest.update(piece)
        self._compare(name, [digest.hexdigest()])

    def _check_canary(self) -> None:
        problems = canary_consistency.canary_problems(self.manifest, self.array)
        if problems:
            raise BundleError(f"{self.path}: {'; '.join(problems)}; rebuild the bundle")

    def array(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """One .npy file as an array. Raises BundleError for pickled objects, or a shape that its bytes do not fill."""
        try:
            return npy.decode(self.read(name))
        except ValueError as error:
            raise BundleError(f"{self.path}: {name} is not a plain array ({error}); rebuild the bundle") from error

    def close(self) -> None:
        self._archive.close()
        self._file.close()

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _place(file: IO[bytes]) -> tuple[int, int, int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _opened(path: Path, file: IO[bytes], size: int, limits: BundleLimits) -> zipfile.ZipFile:
    """The archive, its layout checked to the last byte. Raises BundleError."""
    try:
        zip_layout.check_end(file, size, limits.max_files)
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, OverflowError) as error:
        raise BundleError(f"{path}: not a whole bundle ({error}); download it again") from error
    _check_entries(path, archive, limits)
    try:
        zip_layout.check_entries(file, archive)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: has data outside its files ({error}); do not use this bundle") from error
    return archive


def _check_entries(path: Path, archive: zipfile.ZipFile, limits: BundleLimits) -> None:
    """Refuse malformed archives before anything is unpacked."""
    entries = archive.infolist()
    names = [e.filename for e in entries]
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise BundleError(f"{path}: holds {twice!r} twice; download the bundle again")
    for entry in entries:
        # orig_filename keeps what the archive really says: zipfile cuts names at a NUL byte.
        if not SAFE_NAME.fullmatch(entry.orig_filename) or len(entry.filename) > 200:
            raise BundleError(f"{path}: unsafe file name {entry.orig_filename!r}; do not use this bundle")
        mode = entry.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise BundleError(f"{path}: {entry.filename} is a link or a device; do not use this bundle")
        if entry.flag_bits & ~zip_layout.FLAGS or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleError(f"{path}: {entry.filename} is packed in an unsupported way; rebuild the bundle")
    if MANIFEST not in names:
        raise BundleError(f"{path}: has no {MANIFEST}; this is not a bundle")
    total = sum(e.file_size for e in entries)
    if total > limits.max_unpacked_bytes:
        raise BundleError(f"{path}: unpacks to {total} bytes; the limit is {limits.max_unpacked_bytes}")


def _check_contents(path: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """The archive holds exactly the manifest's files, at the manifest's sizes, and the manifest names only those."""
    packed = {e.filename: e.file_size for e in archive.infolist() if e.filename != MANIFEST}
    if extra := sorted(packed.keys() - manifest.files.keys()):
        raise BundleError(f"{path}: {extra[0]!r} is not in the manifest; do not use this bundle")
    if missing := sorted(manifest.files.keys() - packed.keys()):
        raise BundleError(f"{path}: {missing[0]!r} is missing; download the bundle again")
    for name, file in manifest.files.items():
        if packed[name] != file.bytes:
            raise BundleError(f"{path}: {name} has {packed[name]} bytes, the manifest says {file.bytes}")
    if problems := consistency.problems(manifest):
        raise BundleError(f"{path}: {'; '.join(problems)}; rebuild the bundle")


def _read(path: Path, file: IO[bytes], archive: zipfile.ZipFile, name: str, max_bytes: int) -> bytes:
    """One entry, unless its header promises more than `max_bytes`."""
    entry = archive.getinfo(name)
    if entry.file_size > max_bytes:
        raise BundleError(f"{path}: {name} is larger than {max_bytes} bytes; do not use this bundle")
    with _unpacking(path, name):
        return b"".join(zip_layout.unpacked(file, entry))


@contextmanager
def _unpacking(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (zlib.error, OSError, ValueError) as error:
        raise BundleError(f"{path}: {name} cannot be unpacked ({error}); download the bundle again") from error


def describe(files: Mapping[str, bytes]) -> dict[str, File]:
    """The manifest's file table for these contents."""
    return {name: File(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()}


def _packing(data: bytes) -> int:
    """Deflate where it is worth the time of unpacking: weights in floats are almost noise, of int8 a sixth is saved."""
    some = data[max(0, len(data) // 2 - JUDGED) :][: 2 * JUDGED]  # from the middle: a model file begins with names
    return zipfile.ZIP_DEFLATED if len(zlib.compress(some, 9)) < WORTH * len(some) else zipfile.ZIP_STORED


def write(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle beside `path`, check it by opening it, and rename. Equal contents give equal bytes."""
    try:
        with publishing(path) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for name, data in ((MANIFEST, encode(manifest)), *sorted(files.items())):
                    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                    entry.external_attr = (stat.S_IFREG | 0o644) << 16
                    entry.compress_type = _packing(data)
                    archive.writestr(entry, data)
            file.flush()
            Bundle.open(Path(file.name)).close()
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); make room or choose another folder") from error
