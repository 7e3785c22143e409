"""What a process did to a folder, call by call (strace), and the disk as a power cut at a call may leave it."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

CHANGING = (
    "openat", "write", "ftruncate", "fsync", "fdatasync", "rename", "unlink", "unlinkat", "mkdir", "rmdir", "symlink", "link", "sendfile",
    "sync",
)  # fmt: skip
NOT_REPLAYED = ("pwrite64", "writev", "copy_file_range", "renameat", "renameat2", "linkat", "symlinkat", "mkdirat")
LINE = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
HEX = r"(?:\\x[0-9a-f]{2})*"


@dataclass(frozen=True)
class Call:
    """One system call that changed something. `nth`: of its name's calls in the whole process, from 1."""

    name: str
    nth: int
    path: str
    other: str = ""  # where a link points, what a file is renamed to or called too, what is copied
    data: bytes = b""
    size: int = 0
    truncates: bool = False


@dataclass
class File:
    """`synced`: what the disk surely has of it."""

    content: bytes = b""
    synced: bytes = b""


FOLDER = "folder"
Node = File | tuple[str, str]  # (FOLDER, ""), or ("link", where it points)
Change = tuple[str, str, Node | None]  # its folder, the name, what stands there now; None: nothing


@dataclass
class Disk:
    """`names`: as the process sees them. `safe`: those that survive; `pending`: changes that no fsync of their folder followed."""

    names: dict[str, Node] = field(default_factory=dict)
    safe: dict[str, Node] = field(default_factory=dict)
    pending: list[list[Change]] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> Disk:
        found: dict[str, Node] = {str(folder): (FOLDER, "")}
        for path in folder.rglob("*"):
            if path.is_symlink():
                found[str(path)] = ("link", str(path.readlink()))
            else:
                found[str(path)] = (FOLDER, "") if path.is_dir() else File(path.read_bytes(), path.read_bytes())
        return cls(dict(found), dict(found))

    def sync(self) -> None:
        for each in self.names.values():
            if isinstance(each, File):
                each.synced = each.content
        self.safe, self.pending = dict(self.names), []

    def apply(self, call: Call) -> None:
        if call.name == "sync":
            self.sync()
            return
        path = call.path
        at = self.names.get(path)
        if call.name == "openat":
            if at is None:
                self._change([(path, File())])
            elif call.truncates and isinstance(at, File):
                at.content = b""
        elif call.name == "write" and isinstance(at, File):
            at.content += call.data
        elif call.name == "sendfile" and isinstance(at, File):
            at.content = self.names[call.other].content  # type: ignore[union-attr]
        elif call.name == "ftruncate" and isinstance(at, File):
            at.content = at.content[: call.size]
        elif call.name in ("fsync", "fdatasync"):
            if isinstance(at, File):
                at.synced = at.content
            else:
                for changes in [c for c in self.pending if c[0][0] == path]:
                    _set(self.safe, changes)
                self.pending = [c for c in self.pending if c[0][0] != path]
        elif call.name == "rename":
            self._rename(path, call.other)
        elif call.name == "link":
            self._change([(call.other, at)])
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self._change([(path, None)])
        else:
            self._change([(path, (FOLDER, "") if call.name == "mkdir" else ("link", call.other))])

    def _rename(self, path: str, to: str) -> None:
        """What is in a folder goes with it."""
        moved = [path, *(p for p in self.names if p.startswith(f"{path}/"))]
        self._change([*((p, None) for p in moved), *((to + p.removeprefix(path), self.names.get(p)) for p in moved)])

    def _change(self, what: list[tuple[str, Node | None]]) -> None:
        changes = [(str(Path(path).parent), path, node) for path, node in what]
        _set(self.names, changes)
        self.pending.append(changes)

    def found(self, names: dict[str, Node], content: Callable[[File], bytes]) -> dict[str, Node | bytes]:
        return {path: content(node) if isinstance(node, File) else node for path, node in names.items()}


def _set(names: dict[str, Node], changes: list[Change]) -> None:
    for _, path, node in changes:
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


def torn(file: File) -> bytes:
    """Of what was not synced, the first half; zeros for the rest, as the length was known already."""
    if not file.content.startswith(file.synced):
        return file.content[: len(file.content) // 2].ljust(len(file.content), b"\0")
    rest = file.content[len(file.synced) :]
    return file.synced + rest[: len(rest) // 2].ljust(len(rest), b"\0")


def in_part(disk: Disk, seed: int) -> dict[str, Node | bytes]:
    """Changes of names up to some moment, and each file's bytes in one of three ways."""
    rng = random.Random(seed)
    names = dict(disk.safe)
    for changes in disk.pending[: rng.randint(0, len(disk.pending))]:
        _set(names, changes)
    return disk.found(names, lambda file: rng.choice([file.content, file.synced, torn(file)]))


AT_1970 = "in part, and the clock at 1970"
LOSSES: dict[str, Callable[[Disk, int], dict[str, Node | bytes]]] = {
    "only what was synced": lambda disk, _: disk.found(disk.safe, lambda f: f.synced),
    "names, and no bytes": lambda disk, _: disk.found(disk.names, lambda f: f.synced),
    "bytes, and no names": lambda disk, _: disk.found(disk.safe, lambda f: f.content),
    "half of the bytes": lambda disk, _: disk.found(disk.names, torn),
    "in part": in_part,
    "in part, otherwise": lambda disk, seed: in_part(disk, seed + 10_000),
    AT_1970: in_part,
}


def laid(folder: Path, found: dict[str, Node | bytes]) -> None:
    """Make the folder so. A name whose folder was lost is lost with it."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, node in sorted(found.items()):
        if not Path(path).parent.is_dir():
            continue
        if isinstance(node, bytes):
            Path(path).write_bytes(node)
        elif isinstance(node, tuple) and node[0] == FOLDER:
            Path(path).mkdir(mode=0o700)
        elif isinstance(node, tuple):
            Path(path).symlink_to(node[1])


def traced(words: list[str], stdin: bytes, folder: Path, log: Path) -> list[Call]:
    """What a process changes in `folder`, call by call. Raises RuntimeError for a call that is not replayed here."""
    names = ",".join((*CHANGING, *NOT_REPLAYED))
    strace = ["strace", "-y", "-xx", "-s", "100000000", "-e", f"trace={names}", "-e", "signal=none", "-o", str(log)]
    done = subprocess.run([*strace, *words], input=stdin, capture_output=True, check=True, timeout=300)
    if b"is staged" not in done.stdout:
        raise RuntimeError(f"the update was not taken: {done.stdout.decode()}")
    counts: Counter[str] = Counter()
    calls = []
    for line in log.read_text().splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        counts[found[1]] += 1
        call = _call(found[1], counts[found[1]], found[2], int(found[3]))
        if int(found[3]) >= 0 and (call.name == "sync" or call.path.startswith(str(folder))):
            if call.name in NOT_REPLAYED:
                raise RuntimeError(f"{call.name} on {call.path} is not replayed here")
            if call.name != "openat" or re.search("O_WRONLY|O_RDWR", found[2]):
                calls.append(call)
    return calls


def _call(name: str, nth: int, arguments: str, result: int) -> Call:
    if name == "sync":
        return Call(name, nth, "")
    strings = [_decoded(s) for s in re.findall(f'"({HEX})"', arguments)]
    open_files = [os.fsdecode(_decoded(s)) for s in re.findall(f"<({HEX})>", arguments)]
    if name in ("write", "fsync", "fdatasync", "ftruncate", "sendfile", *NOT_REPLAYED[:3]):
        path = open_files[0] if open_files else ""
    else:
        base = open_files[0] if open_files else ""
        path = str(Path(base) / os.fsdecode(strings[1 if name == "symlink" else 0]))
    return Call(
        name, nth, path,
        other=open_files[1] if name == "sendfile" and len(open_files) > 1
        else os.fsdecode(strings[name != "symlink"]) if name in ("rename", "link", "symlink") else "",
        data=strings[0][:result] if name == "write" and strings else b"",
        size=int(arguments.rpartition(",")[2]) if name == "ftruncate" else 0,
        truncates="O_TRUNC" in arguments,
    )  # fmt: skip


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
