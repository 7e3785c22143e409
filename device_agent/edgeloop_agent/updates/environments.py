"""Installs a wheelhouse beside what runs: into a folder that Python finds packages in, without pip and without a network.

What a wheel holds is written where pip would write it, except programs, headers and documents, which no device uses. Nothing of a
wheel is run. The folder appears by a rename, after all of it is on the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import py_compile
import shutil
import stat
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import msgspec

from edgeloop_agent.launcher import ABOUT, is_newer, packaged
from edgeloop_agent.updates.rebuilding import digest_of
from edgeloop_contract.errors import BundleError, StorageError
from edgeloop_contract.files import sync_folder
from edgeloop_contract.needs import AgentNeeds
from edgeloop_contract.wheelhouse import Wheel, WheelhouseManifest

__all__ = [
    "JOURNAL", "UNPACKED", "About", "House", "Unpacked", "below_floor", "files_of", "install", "misfit", "placed", "remove",
    "unpacked_in", "whole_wheels",
]  # fmt: skip

JOURNAL = 1  # the format of journals and databases in the state folder that this agent writes and reads
MAX_FILES = 30_000
OURS = "edgeloop"
RUN_BY_PYTHON = ("sitecustomize", "usercustomize")  # imported at each start, if they are found
UNPACKED = "wheels.json"  # in an environment: what each wheel was unpacked to
CHUNK = 1 << 20


class House(Protocol):
    """The wheels of an agent: of one file, or those of them that a device did not have."""

    @property
    def path(self) -> Path: ...
    @property
    def manifest(self) -> WheelhouseManifest: ...
    def bytes_of(self, wheel: Wheel) -> IO[bytes]: ...


class Unpacked(msgspec.Struct, frozen=True):
    """Digests of an environment's files, by the digest of their wheel. `left_out`: packages that were not unpacked."""

    left_out: list[str] = []
    wheels: dict[str, dict[str, str]] = {}


class About(msgspec.Struct, frozen=True):
    """What the launcher must know of an environment."""

    version: str
    python: str
    machine: str
    sha256: str
    trial_seconds: float
    files: dict[str, int]


def misfit(needs: AgentNeeds) -> str:
    """Why this device cannot run an agent, in one sentence; "" where it can."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if needs.python != here:
        return f"it is for Python {needs.python}, and this device has {here}: make one with edgeloop pack-agent --python {here}"
    if needs.machine not in ("", platform.machine()):
        return f"it is for {needs.machine}, and this device is {platform.machine()}"
    kind, libc = platform.libc_ver()
    if needs.glibc and (kind != "glibc" or is_newer(needs.glibc, libc)):
        return f"it needs glibc {needs.glibc}, and this device has {kind or 'another library'} {libc}"
    if needs.journal > JOURNAL:
        return f"what it writes is not read by this agent (journal {needs.journal}, here {JOURNAL}): there would be no way back"
    return ""


def below_floor(needs: AgentNeeds) -> str:
    """Why the packaged agent is kept; "" where the offered one is later."""
    floor = packaged()["version"]
    if is_newer(needs.version, floor):
        return ""
    return f"it is agent {needs.version}, and the packaged one is {floor}: the later one of them serves"


def placed(folder: Path, slot: str) -> Path:
    """Where the environment of a slot is."""
    return folder / f"env-{slot}"


def remove(path: Path) -> None:
    """Remove an environment, and one that was not finished."""
    for each in (path.with_name(f"{path.name}.partial"), path):
        shutil.rmtree(each, ignore_errors=True)


def unpacked_in(path: Path) -> Unpacked:
    """An empty one where an environment does not say it."""
    try:
        return msgspec.json.decode((path / UNPACKED).read_bytes(), type=Unpacked)
    except (OSError, msgspec.MsgspecError):
        return Unpacked()


def whole_wheels(path: Path, manifest: WheelhouseManifest) -> set[str]:
    """Digests of the wheels that an environment has unpacked as this manifest wants them, every file of them as it was then."""
    found = unpacked_in(path)
    if found.left_out != manifest.left_out:
        return set()
    wanted = {wheel.sha256 for wheel in manifest.wheels} & found.wheels.keys()
    return {sha256 for sha256 in wanted if all(digest_of(path / name) == digest for name, digest in found.wheels[sha256].items())}


def install(house: House, path: Path, sha256: str, trial_seconds: float, old: Path | None = None) -> None:
    """Unpack all wheels so that `path` is the environment. Raises BundleError or StorageError, and then nothing is left.

    `old`: an environment from which wheels are taken that the new one has too; both have the same files then, where the disk can.
    """
    partial, manifest = path.with_name(f"{path.name}.partial"), house.manifest
    remove(path)
    try:
        partial.mkdir(mode=0o700)
        sizes: dict[str, int] = {}
        there = whole_wheels(old, manifest) if old is not None else set[str]()
        shared, digests = unpacked_in(old).wheels if old is not None else {}, dict[str, dict[str, str]]()
        for wheel in manifest.wheels:
            if old is not None and wheel.sha256 in there:
                digests[wheel.sha256] = shared[wheel.sha256]
                _share_wheel(house, wheel, digests[wheel.sha256], old, partial, sizes)
            else:
                digests[wheel.sha256] = _unpack_wheel(house, wheel, partial, sizes)
        _compile(partial, path, sizes)
        about = About(manifest.version, manifest.python, manifest.machine, sha256, trial_seconds, sizes)
        (partial / UNPACKED).write_bytes(msgspec.json.encode(Unpacked(manifest.left_out, digests)))
        (partial / ABOUT).write_bytes(msgspec.json.encode(about))
        os.sync()  # one wait for thousands of files
        partial.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        remove(path)
        if isinstance(error, OSError):
            raise StorageError(f"{path}: cannot be written ({error.strerror}); make room") from error
        raise


def _share_wheel(
    house: House, wheel: Wheel, files: dict[str, str], old: Path, folder: Path, sizes: dict[str, int]
) -> None:  # fmt: skip
    with _reading(house.path, wheel):
        for name in files:
            if name in sizes or len(sizes) >= MAX_FILES:
                raise ValueError(f"{name} is in two wheels" if name in sizes else f"more than {MAX_FILES} files")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(old / name, target)
            except OSError:  # a file system without links
                shutil.copyfile(old / name, target)
            sizes[name] = target.stat().st_size


def _unpack_wheel(house: House, wheel: Wheel, folder: Path, sizes: dict[str, int]) -> dict[str, str]:
    """Returns the digests of its files."""
    left, digests = house.manifest.unpacked_bytes - sum(sizes.values()), dict[str, str]()
    with _reading(house.path, wheel), house.bytes_of(wheel) as content, zipfile.ZipFile(content) as archive:
        for name, entry in files_of(archive, wheel.project, house.manifest.left_out).items():
            left -= entry.file_size
            if left < 0:
                raise ValueError(f"more than the {house.manifest.unpacked_bytes} bytes that the manifest says")
            if name in sizes or len(sizes) >= MAX_FILES:
                raise ValueError(f"{name} is in two wheels" if name in sizes else f"more than {MAX_FILES} files")
            sizes[name] = entry.file_size
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, target.open("xb") as file:
                digests[name] = _copied(source, file, entry.file_size)
    return digests


def _copied(source: IO[bytes], file: IO[bytes], size: int) -> str:
    """Returns the digest."""
    written, digest = 0, hashlib.sha256()
    while chunk := source.read(CHUNK):
        written += file.write(chunk)
        digest.update(chunk)
    if written != size:
        raise ValueError("a file is cut short")
    return digest.hexdigest()


@contextlib.contextmanager
def _reading(path: Path, wheel: Wheel) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, struct.error, OverflowError, zlib.error
    ) as error:  # fmt: skip
        raise BundleError(f"{path}: {wheel.file}: {error}; do not use this wheelhouse") from error


def files_of(archive: zipfile.ZipFile, project: str, left_out: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    """What of a wheel is installed, by the place where. Raises ValueError for a file that must not be there."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if entry.is_dir() or (name := _place_of(entry, project)) is None or name.partition("/")[0] in left_out:
            continue
        if name in found:
            raise ValueError(f"{name} is there twice")
        found[name] = entry
    return found


def _place_of(entry: zipfile.ZipInfo, project: str) -> str | None:
    """Where a file of a wheel goes; None: nowhere. Raises ValueError for one that must not be there."""
    name = entry.orig_filename
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts) or "\\" in name or not name.isprintable():
        raise ValueError(f"unsafe file name {name[:80]!r}")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise ValueError(f"{name} is a link or a device")
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
            return None
        parts = parts[2:]
    top = parts[0].partition(".")[0]
    if len(parts) == 1 and name.endswith(".pth"):
        raise ValueError(f"{name} would be run at each start")
    if top in sys.stdlib_module_names or top in RUN_BY_PYTHON:
        raise ValueError(f"{name} would take the place of Python's own {top}")
    mine = parts[0].partition("-")[0].partition(".")[0].lower()
    if (mine == OURS or mine.startswith(f"{OURS}_")) and project != OURS:
        raise ValueError(f"{name} would take the place of the agent's own {mine}")
    if parts in ([ABOUT], [UNPACKED]):
        raise ValueError(f"{name} would take the place of the environment's own list")
    return "/".join(parts)


def _compile(partial: Path, path: Path, sizes: dict[str, int]) -> None:
    """Compile all modules now: a device that loses its power while Python writes one would keep a damaged one."""
    for name in [n for n in sizes if n.endswith(".py")]:
        with contextlib.suppress(py_compile.PyCompileError, ValueError, RecursionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other people's modules
            mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
            made = py_compile.compile(str(partial / name), dfile=str(path / name), doraise=True, invalidation_mode=mode)
            if made is not None:
                sizes[str(Path(made).relative_to(partial))] = Path(made).stat().st_size
