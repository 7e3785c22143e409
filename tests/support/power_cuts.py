"""An update killed at every system call that changes its files, and the disk as a power cut at that call may leave it.

The real updater process runs once under strace, which says what it did to its folder. Then, for each of those calls,
- a fresh process is killed as it makes that call (strace again), and the device started anew;
- the disk is put together as it may be found after the power went, from the calls before it and from what was synced by then, in
  several ways (LOSSES), and the device started on it.
Each time a verified version has to run, and at most TURNS turns later the new one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from securesystemslib.signer import CryptoSigner

from agent_bench import AgentBench
from disk_replay import AT_1970, LOSSES, Disk, laid, traced
from edgeloop_contract.errors import EdgeloopError
from hubs import version
from serving import GOLDEN
from update_bench import Bench, ConfigBench, offer_shipped

TURNS = 2  # a download whose bytes the cut took is thrown away in the first


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


def beside(bench: Bench) -> tuple[int, ...]:
    """Of a device's second bundle, whose version 2 was taken before; the first one stays."""
    return next_one(bench)


def two_bundles(folder: Path) -> Bench:
    return Bench(folder, GOLDEN, version(folder, 1, name="second"), watched=1)


def config(bench: Bench) -> tuple[int, ...]:
    """The device's config, whose version 2 was taken before."""
    return next_one(bench)


def by_delta(bench: Bench) -> tuple[int, ...]:
    """Version 3 is made of version 2, which was taken before, and a delta."""
    versions = next_one(bench)
    bench.repository.add_delta(*(bench.bundles / f"exercise_watch-{number}.edgeloop" for number in versions))
    bench.repository.publish()
    return versions


def agent(bench: Bench) -> tuple[int, ...]:
    """The device's own agent, whose version 2 was taken before: installed, started on trial, kept."""
    return next_one(bench)


def first_agent(bench: Bench) -> tuple[int, ...]:
    """No agent was taken before: the packaged one runs."""
    return (0, *first(bench)[1:])


def agent_given_back(bench: Bench) -> tuple[int, ...]:
    """The same, but its trial fails."""
    return next_one(bench)


def agent_shipped(bench: Bench) -> tuple[int, ...]:
    """Back from version 2 to the packaged agent, as version 3."""
    return _shipped(bench, "agent:pi")


def config_shipped(bench: Bench) -> tuple[int, ...]:
    """Back from version 2 to the device's own config, as version 3."""
    return _shipped(bench, "config:kitchen")


def _shipped(bench: Bench, model: str) -> tuple[int, ...]:
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.running()
    bench.taken()
    bench.running()
    offer_shipped(bench, 3, model)
    bench.repository.publish()
    return 2, 3


BENCHES: dict[Callable[[Bench], tuple[int, ...]], Callable[[Path], Bench]] = {
    beside: two_bundles,
    config: ConfigBench,
    config_shipped: ConfigBench,
} | dict.fromkeys((agent, first_agent, agent_given_back, agent_shipped), AgentBench)
AGENTS = (agent, first_agent, agent_given_back, agent_shipped)
UPDATES = (first, next_one, new_root, beside, config, config_shipped, by_delta)


def cuts(
    folder: Path, stride: int, kill_stride: int, updates: Sequence[Callable[[Bench], tuple[int, ...]]] = UPDATES
) -> Iterator[tuple[str, int, int, list[str]]]:
    """Every `stride`-th call. Yields (what was tried, points, how often the old version still ran, what went wrong)."""
    for about in updates:
        (folder / about.__name__).mkdir(parents=True)
        bench = BENCHES.get(about, Bench)(folder / about.__name__)
        versions = about(bench)
        state, kept = bench.folder.path, folder / f"{about.__name__}-kept"
        shutil.copytree(state, kept, symlinks=True)
        words = [sys.executable, "-m", "edgeloop_agent.updates", str(folder / about.__name__ / "agent.toml")]
        if isinstance(bench, AgentBench):
            words = bench.words("fails" if about is agent_given_back else "passes")
        told = msgspec.json.encode(bench.request())
        calls = traced(words, told, state, folder / "strace.log")
        wrong, old, points = [], 0, range(0, len(calls), kill_stride)
        ends = 2 if about is agent_given_back else 1
        for i in points:
            _restore(kept, state)
            inject = f"inject={calls[i].name}:signal=SIGKILL:when={calls[i].nth}"
            done = subprocess.run(
                ["strace", "-o", "/dev/null", "-e", f"trace={calls[i].name}", "-e", inject, *words], input=told, capture_output=True,
                check=False, timeout=300,
            )  # fmt: skip
            if done.returncode != 137 and done.returncode != -9:
                wrong.append(f"call {i} {calls[i].name}: was not killed ({done.returncode})")
            old += _ends_well(bench, versions, f"killed at call {i}, {calls[i].name}", wrong, ends)
        yield f"killed, {about.__name__}", len(points), old, wrong
        for loss, found in LOSSES.items():
            # No battery keeps a small board's clock: in one of the ways it is 1970 after the cut.
            bench.now = (lambda: 1000.0) if loss == AT_1970 else time.time
            _restore(kept, state)
            disk, wrong, old = Disk.of(state), [], 0
            for i, call in enumerate(calls):
                if i % stride == 0:
                    laid(state, found(disk, i))
                    old += _ends_well(bench, versions, f"{loss}, before call {i}, {call.name}", wrong, ends)
                disk.apply(call)
            yield f"{loss}, {about.__name__}", len(range(0, len(calls), stride)), old, wrong


def full_disks(folder: Path, stride: int, made: Callable[[Path], Bench] = Bench) -> tuple[int, int, list[str]]:
    """The update on a disk that is full after n pages, for every n until it fits; then there is room again. Needs root.

    Returns (disks, how often the old version ran, what went wrong).
    """
    folder.mkdir(parents=True)
    bench, page = made(folder), os.sysconf("SC_PAGE_SIZE")
    versions = next_one(bench)
    state, kept = bench.folder.path, folder / "kept"
    shutil.copytree(state, kept, symlinks=True)
    words = [sys.executable, "-m", "edgeloop_agent.updates", str(folder / "agent.toml")]
    told = msgspec.json.encode(bench.request())
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
            before = bench.journal.load().trial is None
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


def _ends_well(bench: Bench, versions: tuple[int, ...], where: str, wrong: list[str], ends: int = 1) -> bool:
    """Whether the old version runs at first. `ends`: how many of the versions, the last ones, may run in the end."""
    old = bench.running().version
    if old not in versions:
        wrong.append(f"{where}: version {old} runs")
    for _ in range(TURNS):
        if bench.journal.load().trial is None:
            try:
                bench.turn()
            except EdgeloopError as error:
                last = str(error)
                continue
        break
    else:
        wrong.append(f"{where}: {last}")
    now = bench.running().version
    if now not in versions[-ends:]:
        wrong.append(f"{where}: in the end version {now} runs")
    if left := [p.name for p in (*bench.journal.path.glob("*.partial"), *bench.journal.path.glob("slot-*.wheelhouse"))]:
        wrong.append(f"{where}: left behind {left}")
    return old == versions[0]
