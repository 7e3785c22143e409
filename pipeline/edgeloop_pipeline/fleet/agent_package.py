"""Makes a wheelhouse of a folder of wheels, and refuses one that a device could not install without a network."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from edgeloop_agent.updates.environments import OURS, files_of
from edgeloop_contract.errors import DataError, StorageError, UsageError
from edgeloop_contract.wheelhouse import MAX_UNPACKED_BYTES, Wheel, WheelhouseManifest, write

DEVICE_PACKAGES = ("edgeloop_agent", "edgeloop_contract")  # of ours; the others are the workstation's and the hub's
RUNTIMES = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
OLD_NAMES = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}  # the glibc that they stand for, 2.…
MACHINES = ("x86_64", "aarch64", "armv7l")


class _Reads(msgspec.Struct):
    """What an agent says of itself: `edgeloop_agent/reads.json`."""

    reads: int
    journal: int


@dataclass(frozen=True)
class _Found:
    """A wheel as it lies in the folder. `glibc`: the minor version that it needs; 0: any."""

    path: Path
    project: str
    version: Version
    glibc: int
    any_machine: bool


def pack(folder: Path, out: Path, python: str, machine: str) -> tuple[WheelhouseManifest, list[str]]:
    """Write the wheelhouse; its manifest, and what a person should know of it. Raises UsageError, DataError, StorageError."""
    found = _found(folder, python, machine)
    mine = found.get(OURS)
    if mine is None:
        raise DataError(f"{folder}: has no wheel of edgeloop; make one with pip wheel --no-deps -w {folder} edgeloop")
    _check_needs(found, python, machine)
    with zipfile.ZipFile(mine.path) as archive:
        try:
            reads = msgspec.json.decode(archive.read("edgeloop_agent/reads.json"), type=_Reads)
        except (KeyError, msgspec.MsgspecError) as error:
            raise DataError(f"{mine.path}: does not say what this agent reads ({error}); take a later edgeloop") from error
        tops = {name.partition("/")[0] for name in archive.namelist()}
    left_out = sorted(t for t in tops if (t == OURS or t.startswith(f"{OURS}_")) and t not in DEVICE_PACKAGES)
    glibc = max(wheel.glibc for wheel in found.values())
    manifest = WheelhouseManifest(
        version=str(mine.version), python=python, machine="" if all(w.any_machine for w in found.values()) else machine,
        glibc=f"2.{glibc}" if glibc else "", reads=reads.reads, journal=reads.journal,
        unpacked_bytes=_unpacked_bytes(found, left_out), wheels=[_described(found[name]) for name in sorted(found)],
        left_out=left_out,
    )  # fmt: skip
    try:
        write(out, manifest, [wheel.path for wheel in found.values()])
    except OSError as error:
        raise StorageError(f"{out}: cannot be written ({error.strerror}); make room or choose another folder") from error
    return manifest, [] if any(name in found for name in RUNTIMES) else [
        f"{out}: holds no runtime ({', '.join(RUNTIMES)}): devices use the one of their packaged agent"
    ]


def _found(folder: Path, python: str, machine: str) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            project, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise DataError(f"{path}: not a wheel's name ({error}); download it again") from error
        fitting = [needed for tag in tags if (needed := _glibc_for(tag, python, machine)) is not None]
        if not fitting:
            said = ", ".join(sorted(map(str, tags)))
            raise DataError(f"{path}: is for {said}, and devices have Python {python} on {machine}; download the one for them")
        if project in found:
            raise DataError(f"{folder}: has two versions of {project}, {found[project].version} and {version}; remove one of them")
        found[project] = _Found(path, project, version, min(fitting), all(tag.platform == "any" for tag in tags))
    return found


def _glibc_for(tag: Tag, python: str, machine: str) -> int | None:
    """The minor version of glibc that a wheel needs by one of its tags; 0: any. None: the device cannot use it."""
    minor = int(python.partition(".")[2])
    own = re.fullmatch(r"(?:py3|cp3)(\d*)", tag.interpreter)
    if own is None or (own[1] and int(own[1]) > minor):
        return None
    exact = tag.abi == f"cp3{minor}" and own[1] == str(minor)
    if not exact and tag.abi not in ("none", "abi3"):
        return None
    if tag.abi == "none" and tag.interpreter.startswith("cp") and own[1] != str(minor):
        return None
    if tag.platform in ("any", f"linux_{machine}"):
        return 0
    system, _, rest = tag.platform.partition("_")
    if system in OLD_NAMES and rest == machine:
        return OLD_NAMES[system]
    later = re.fullmatch(rf"manylinux_2_(\d{{1,3}})_{re.escape(machine)}", tag.platform)
    return int(later[1]) if later else None


def _check_needs(found: dict[str, _Found], python: str, machine: str) -> None:
    """Raises DataError where something that a wheel needs is not there."""
    here = {
        "python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine, "sys_platform": "linux",
        "platform_system": "Linux", "os_name": "posix", "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    wanted = {project: {""} for project in found}  # extras, "": the project itself
    waiting = list(found)
    while waiting:
        wheel = found[waiting.pop()]
        for needed in _requirements(wheel):
            if needed.marker and not any(needed.marker.evaluate({**here, "extra": e}) for e in wanted[wheel.project]):
                continue
            there = found.get(canonicalize_name(needed.name))
            if there is None:
                raise DataError(
                    f"{wheel.path.parent}: {needed.name} is missing, which {wheel.project} {wheel.version} needs ({needed});"
                    " add its wheel"
                )
            if not needed.specifier.contains(there.version, prereleases=True):
                raise DataError(f"{there.path}: {wheel.project} {wheel.version} needs {needed}; take such a one")
            if not needed.extras <= wanted[there.project]:
                wanted[there.project] |= needed.extras
                waiting.append(there.project)


def _requirements(wheel: _Found) -> list[Requirement]:
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            name = next(n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
            lines = HeaderParser().parsestr(archive.read(name).decode("utf-8")).get_all("Requires-Dist") or []
        return [Requirement(line) for line in lines]
    except (zipfile.BadZipFile, OSError, StopIteration, UnicodeDecodeError, InvalidRequirement) as error:
        raise DataError(f"{wheel.path}: not a whole wheel ({error or 'no METADATA'}); download it again") from error


def _unpacked_bytes(found: dict[str, _Found], left_out: Sequence[str]) -> int:
    """Of all files that a device writes. Raises DataError for what it would refuse."""
    places: dict[str, Path] = {}
    total = 0
    for wheel in found.values():
        with zipfile.ZipFile(wheel.path) as archive:
            try:
                files = files_of(archive, wheel.project, left_out)
            except ValueError as error:
                raise DataError(f"{wheel.path}: {error}; devices refuse it") from error
        for name, entry in files.items():
            if name in places:
                raise DataError(f"{wheel.path}: {name} is in {places[name].name} too; devices refuse it")
            places[name] = wheel.path
            total += entry.file_size
    if total > MAX_UNPACKED_BYTES:
        raise DataError(f"{len(found)} wheels unpack to {total:,} bytes; devices take {MAX_UNPACKED_BYTES:,} at most")
    return total


def _described(wheel: _Found) -> Wheel:
    import hashlib

    content = wheel.path.read_bytes()
    return Wheel(wheel.path.name, wheel.project, str(wheel.version), len(content), hashlib.sha256(content).hexdigest())


def check_platform(python: str, machine: str) -> None:
    """Raises UsageError for a platform that no agent runs on."""
    if not re.fullmatch(r"3\.\d{1,2}", python) or int(python[2:]) < 10:
        raise UsageError(f"--python {python!r}: write 3.10 or later, such as 3.11")
    if machine not in MACHINES:
        raise UsageError(f"--machine {machine!r}: use {', '.join(MACHINES)}")
