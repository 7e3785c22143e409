"""An update killed at every system call that changes its files, and the disk as a power cut at that call may leave it.

The real updater process runs once under strace, which says what it did to its folder. Then, for each of those calls,
- a fresh process is killed as it makes that call (strace again), and the device started anew;
- the disk is put together as it may be found after the power went, from the calls before it and from what was synced by then, in
  several ways (LOSSES), and the device started on it.
Each time a verified version has to run, and at most TURNS turns later the new one.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from securesystemslib.signer import CryptoSigner
from test_updates import Bench

from edgeloop_agent.updates.cycle_messages import CycleRequest
from edgeloop_contract.errors import EdgeloopError

CHANGING = (
    "openat", "write", "ftruncate", "fsync", "fdatasync", "rename", "unlink", "unlinkat", "mkdir", "rmdir", "symlink", "sendfile",
)  # fmt: skip
NOT_REPLAYED = ("pwrite64", "writev", "copy_file_range", "renameat", "renameat2", "link", "linkat", "symlinkat", "mkdirat")
LINE = re.compile(r"^(\w+)\((.*)\)\s+= (-?\d+)")
HEX = r"(?:\\x[0-9a-f]{2})*"
TURNS = 2  # a download whose bytes the cut took is thrown away in the first


@dataclass(frozen=True)
class Call:
    """One system call that changed something. `nth`: of its name's calls in the whole process, from 1."""

    name: str
    nth: int
    path: str
    other: str = ""  # where a link points, what a file is renamed to, what is copied
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

    def apply(self, call: Call) -> None:
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
            self._change([(path, None), (call.other, at)])
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            self._change([(path, None)])
        else:
            self._change([(path, (FOLDER, "") if call.name == "mkdir" else ("link", call.other))])

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
        if int(found[3]) >= 0 and call.path.startswith(str(folder)):
            if call.name in NOT_REPLAYED:
                raise RuntimeError(f"{call.name} on {call.path} is not replayed here")
            if call.name != "openat" or re.search("O_WRONLY|O_RDWR", found[2]):
                calls.append(call)
    return calls


def _call(name: str, nth: int, arguments: str, result: int) -> Call:
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
        else os.fsdecode(strings[name == "rename"]) if name in ("rename", "symlink") else "",
        data=strings[0][:result] if name == "write" and strings else b"",
        size=int(arguments.rpartition(",")[2]) if name == "ftruncate" else 0,
        truncates="O_TRUNC" in arguments,
    )  # fmt: skip


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def first(bench: Bench) -> tuple[int, ...]:
    """Nothing was taken before: the config's bundle runs."""
    bench.offer(3)
    bench.repository.publish()
    return 1, 3


def next_one(bench: Bench) -> tuple[int, ...]:
    """Version 2 was taken before."""
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.taken()
    bench.offer(3)
    bench.repository.publish()
    return 2, 3


def new_root(bench: Bench) -> tuple[int, ...]:
    """The keys were replaced since, and half of the bundle came before."""
    versions = next_one(bench)
    bench.repository.keys["targets"] = CryptoSigner.generate_ed25519()
    bench.repository.root()
    bench.repository.publish()
    target = next((bench.repository.folder / "targets").glob("*-3*"))
    content = target.read_bytes()
    (bench.folder.path / f"download-{target.name.partition('.')[0]}.partial").write_bytes(content[: len(content) // 2])
    return versions


UPDATES = (first, next_one, new_root)


def cuts(
    folder: Path, stride: int, kill_stride: int, updates: Sequence[Callable[[Bench], tuple[int, ...]]] = UPDATES
) -> Iterator[tuple[str, int, int, list[str]]]:
    """Every `stride`-th call. Yields (what was tried, points, how often the old version still ran, what went wrong)."""
    for about in updates:
        (folder / about.__name__).mkdir(parents=True)
        bench = Bench(folder / about.__name__)
        versions = about(bench)
        state, kept = bench.folder.path, folder / f"{about.__name__}-kept"
        shutil.copytree(state, kept, symlinks=True)
        words = [sys.executable, "-m", "edgeloop_agent.updates", str(folder / about.__name__ / "agent.toml")]
        told = msgspec.json.encode(CycleRequest(bench.running()))
        calls = traced(words, told, state, folder / "strace.log")
        wrong, old, points = [], 0, range(0, len(calls), kill_stride)
        for i in points:
            _restore(kept, state)
            inject = f"inject={calls[i].name}:signal=SIGKILL:when={calls[i].nth}"
            done = subprocess.run(
                ["strace", "-o", "/dev/null", "-e", f"trace={calls[i].name}", "-e", inject, *words], input=told, capture_output=True,
                check=False, timeout=300,
            )  # fmt: skip
            if done.returncode != 137 and done.returncode != -9:
                wrong.append(f"call {i} {calls[i].name}: was not killed ({done.returncode})")
            old += _ends_well(bench, versions, f"killed at call {i}, {calls[i].name}", wrong)
        yield f"killed, {about.__name__}", len(points), old, wrong
        for loss, found in LOSSES.items():
            # No battery keeps a small board's clock: in one of the ways it is 1970 after the cut.
            bench.now = (lambda: 1000.0) if loss == AT_1970 else time.time
            _restore(kept, state)
            disk, wrong, old = Disk.of(state), [], 0
            for i, call in enumerate(calls):
                if i % stride == 0:
                    laid(state, found(disk, i))
                    old += _ends_well(bench, versions, f"{loss}, before call {i}, {call.name}", wrong)
                disk.apply(call)
            yield f"{loss}, {about.__name__}", len(range(0, len(calls), stride)), old, wrong


def full_disks(folder: Path, stride: int) -> tuple[int, int, list[str]]:
    """The update on a disk that is full after n pages, for every n until it fits; then there is room again. Needs root.

    Returns (disks, how often the old version ran, what went wrong).
    """
    folder.mkdir(parents=True)
    bench, page = Bench(folder), os.sysconf("SC_PAGE_SIZE")
    versions = next_one(bench)
    state, kept = bench.folder.path, folder / "kept"
    shutil.copytree(state, kept, symlinks=True)
    words = [sys.executable, "-m", "edgeloop_agent.updates", str(folder / "agent.toml")]
    told = msgspec.json.encode(CycleRequest(bench.running()))
    needed = sum(-(-p.stat().st_size // page) for p in kept.rglob("*") if p.is_file()) + 4
    wrong: list[str] = []
    old = disks = 0
    for pages in range(needed, needed + 200, stride):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * page},mode=700", "tmpfs", state], check=True)
        try:
            shutil.copytree(kept, state, symlinks=True, dirs_exist_ok=True)
            done = subprocess.run(words, input=told, capture_output=True, check=False, timeout=300)
            disks += 1
            if done.returncode or b"Traceback" in done.stderr:
                wrong.append(f"{pages} pages: {done.stderr[-200:]!r}")
            before = bench.folder.load().trial is None
            subprocess.run(["mount", "-o", "remount,size=100m", state], check=True)
            old += _ends_well(bench, versions, f"{pages} pages", wrong)
        finally:
            subprocess.run(["umount", state], check=True)
        if not before:  # it fitted
            return disks, old, wrong
    raise RuntimeError("no size was large enough")


def _restore(kept: Path, state: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(kept, state, symlinks=True)


def _ends_well(bench: Bench, versions: tuple[int, ...], where: str, wrong: list[str]) -> bool:
    """Whether the old version runs at first."""
    old = bench.running().version
    if old not in versions:
        wrong.append(f"{where}: version {old} runs")
    for _ in range(TURNS):
        if bench.folder.load().trial is None:
            try:
                bench.turn()
            except EdgeloopError as error:
                last = str(error)
                continue
        break
    else:
        wrong.append(f"{where}: {last}")
    if bench.running().version != versions[-1]:
        wrong.append(f"{where}: in the end version {bench.running().version} runs")
    if left := [p.name for p in bench.folder.path.glob("*.partial")]:
        wrong.append(f"{where}: left behind {left}")
    return old == versions[0]
