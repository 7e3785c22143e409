"""The hub and the device's updates: an idle poll, what the hub sustains, interruptions, death at every point, a whole fleet.

Everything runs on this machine, the load too, so the rates are of processes that share its cores. Devices are simulated by the
agent's real updater with a canary that is decided beforehand. PostgreSQL rows where Debian's is installed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3

from databases import postgresql
from edgeloop_hub.load.connection import Address
from edgeloop_hub.load.run import Plan, load
from harness import NotRun, Row, at_least, at_most, each, main
from hub_fleet import enrolled, fleet, get, new
from hubs import Hub, running_hub, version
from power_cuts import AGENTS, UPDATES, cuts, full_disks
from update_bench import Bench, fetched, served

HERE = Path(__file__).resolve().parent
POLL_SECONDS = 300.0
DEVICES = 200  # who asks oftener than the others is slowed down, and these ask as fast as they can
IN_WINDOWS = "idle polls of a hub with maintenance windows"
LEAST_RATES = {"idle polls": 2000, IN_WINDOWS: 2000, "heartbeats": 1500}  # a second, on PostgreSQL


def measure(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)

        def polls(_: bool) -> Iterator[Row]:
            yield from idle_poll(folder / "idle")

        def downloads(quick: bool) -> Iterator[Row]:
            yield from interrupted(folder / "cut", 5 if quick else 50)

        def power_cuts(quick: bool) -> Iterator[Row]:
            yield from power(folder / "power", 16 if quick else 1)

        def rates_on_sqlite(quick: bool) -> Iterator[Row]:
            yield from rates("SQLite", folder / "rates-sqlite", "", 3 if quick else 15)

        def rates_on_postgresql(quick: bool) -> Iterator[Row]:
            with postgresql() as address:
                yield from rates("PostgreSQL", folder / "rates-postgresql", address, 3 if quick else 15)

        def rollouts(quick: bool) -> Iterator[Row]:
            for name in ("good", "bad"):
                yield from fleet(folder / name, 40 if quick else 500, bad=name == "bad")

        yield from each(quick, polls, downloads, power_cuts, rates_on_sqlite, rates_on_postgresql, rollouts)


def power(folder: Path, stride: int) -> Iterator[Row]:
    if shutil.which("strace") is None:
        raise NotRun("strace is not installed (apt install strace)")
    for what, points, old, wrong in cuts(folder, stride, stride, (*UPDATES, *AGENTS)):
        for line in wrong[:3]:
            print(line, file=sys.stderr)
        yield Row(f"{what}: no verified version", len(wrong), f"of {points}", None, None, "= 0", not wrong)
        if old in (0, points):
            print(f"  (the {'old' if old else 'new'} version ran after every one)", file=sys.stderr)
    if os.geteuid():
        raise NotRun("full disks: a small disk can be mounted by root alone")
    disks, old, wrong = full_disks(folder / "full", 1 if stride == 1 else 4)
    for line in wrong[:3]:
        print(line, file=sys.stderr)
    yield Row("full disks, a page larger each time: no verified version", len(wrong), f"of {disks}", None, None, "= 0", not wrong)


def idle_poll(folder: Path) -> Iterator[Row]:
    """One poll with nothing new on a connection that stays open, and what went over the wire both ways, headers included."""
    with running_hub(folder) as hub:
        secret = _enrol(hub, "pi-1")
        address = hub.address.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=10) as wire:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def poll(etag: str) -> tuple[int, bytes]:
                lines = [
                    "GET /api/v1/update HTTP/1.1",
                    f"Host: {':'.join(address)}",
                    "Accept-Encoding: identity",
                    "User-Agent: python-urllib3/2.8.0",
                ]
                lines += [f"Authorization: Bearer {secret}", *([f"If-None-Match: {etag}"] if etag else [])]
                sent = ("\r\n".join(lines) + "\r\n\r\n").encode()
                wire.sendall(sent)
                answer = _answer(wire)
                return len(sent) + len(answer), answer

            _, first = poll("")
            etag = next(line for line in first.decode().split("\r\n") if line.lower().startswith("etag:")).split(": ", 1)[1]
            taken = []
            for _ in range(200):
                start = time.perf_counter()
                size, answer = poll(etag)
                taken.append(time.perf_counter() - start)
                assert b" 304 " in answer.split(b"\r\n")[0]
    yield at_most("idle poll, both ways", size, "bytes", 1000)
    yield at_most("idle poll, median", sorted(taken)[100] * 1e3, "ms", 20)


def _answer(wire: socket.socket) -> bytes:
    """One whole answer: its head, and as much body as that promises."""
    found = b""
    while True:
        found += wire.recv(65536)
        head, there, body = found.partition(b"\r\n\r\n")
        promised = re.search(rb"(?i)content-length: (\d+)", head)
        if there and (head.split(b" ")[1] == b"304" or (promised and len(body) >= int(promised[1]))):
            return found


def interrupted(folder: Path, times: int) -> Iterator[Row]:
    """A bundle of 20 MB whose download breaks off at random points; bytes sent in all against its size."""
    bench = Bench(new(folder))
    content = os.urandom(20_000_000)
    (folder / "large.edgeloop").write_bytes(content)
    bench.repository.add(folder / "large.edgeloop", 2)
    bench.repository.publish()
    rng, sent, left = random.Random(1), 0, times

    def breaks(handler: Any, body: bytes) -> None:
        nonlocal sent, left
        begins = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        rest = len(body) - begins
        share = min(rest, rng.randrange(1, 2 * rest // max(left, 1) + 2)) if left else rest
        left -= 1
        handler.send_response(206 if begins else 200)
        handler.send_header("Content-Length", str(rest))
        handler.send_header("Content-Range", f"bytes {begins}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(body[begins : begins + share])
        sent += share
        handler.close_connection = True

    with served(bench.repository.folder, breaks) as address:
        while not bench.folder.slot("a").exists():
            try:
                fetched(bench, address)
            except Exception as error:  # in whatever way the connection broke
                assert left >= 0, error
    yield at_most(f"20 MB interrupted {times} times: bytes in all against its size", sent / len(content), "×", 1.1)


def rates(name: str, folder: Path, database: str, seconds: float) -> Iterator[Row]:
    """Heartbeats and idle polls a second from 8 and 32 connections, by `edgeloop-hub load`'s own requests; bundle bytes from 8."""
    words = ("--database", database) if database else ()
    with running_hub(folder, *words, serve=("--workers", "2", "--set", "report_quota_per_hour=1000000")) as hub:
        secrets = [_enrol(hub, f"pi-{i}") for i in range(DEVICES)]
        target = hub.publish(version(folder, 2))
        sha256 = next(b["sha256"] for b in get(hub, "/api/v1/bundles") if b["target"] == target)

        def download(http: Any, i: int) -> int:
            headers = {"Authorization": f"Bearer {hub.token}"}
            return len(http.request("GET", f"{hub.address}/tuf/targets/{sha256}.{target}", headers=headers).data)

        for what, kind, connections in (
            ("idle polls", "polls", 8), ("idle polls", "polls", 32), ("heartbeats", "reports", 8), ("heartbeats", "reports", 32),
            (IN_WINDOWS, "polls", 8), (IN_WINDOWS, "polls", 32),
        ):  # fmt: skip
            if what == IN_WINDOWS:
                half = [word for i in range(DEVICES // 2) for word in ("--device", f"pi-{i}")]
                hub.run("group", "set", "night", *half, "--window", "mon-fri 22:00-05:00", "--time-zone", "Europe/Berlin")
            plan = Plan(connections, seconds, 0.0, (kind,))
            result = asyncio.run(load(Address.of(hub.address), secrets, plan, asyncio.Event()))
            figures = result.figures[kind]
            assert figures.answered and not figures.refused and not figures.failed, figures
            asked = LEAST_RATES.get(what) if database else None
            rate, said = figures.answered / result.seconds, f"{name}: {what} a second, {connections} connections"
            yield at_least(said, rate, "/s", asked) if asked else Row(said, rate, "/s")
            yield Row(f"{name}: {what}, p99", figures.percentile(0.99) * 1e3, "ms")
            yield Row("… CPU time of the load for each", 1e3 * result.cpu_seconds / figures.answered, "ms")
            if what == "idle polls" and connections == 8:
                yield at_least(f"{name}: devices that may poll every {POLL_SECONDS:.0f} s", rate * POLL_SECONDS, "", 100_000)
        _, size, p99 = _load(download, seconds, 8)
        yield Row(f"{name}: bundle bytes a second", size / seconds / 1e6, "MB/s")
        yield Row(f"{name}: bundle downloads, p99", p99 * 1e3, "ms")


def _load(ask: Any, seconds: float, connections: int) -> tuple[int, int, float]:
    taken: list[float] = []
    sizes: list[int] = []
    deadline = time.monotonic() + seconds

    def work(i: int) -> None:
        with urllib3.PoolManager(retries=False, maxsize=1) as http:
            while time.monotonic() < deadline:
                start = time.perf_counter()
                sizes.append(ask(http, i))
                taken.append(time.perf_counter() - start)
                i += connections

    threads = [threading.Thread(target=work, args=(i,)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(taken), sum(sizes), sorted(taken)[int(len(taken) * 0.99)]


def _enrol(hub: Hub, name: str) -> str:
    secret = str(enrolled(hub, name)["credential"])
    beat = {"key": os.urandom(16).hex(), "at": 0.0, "heartbeat": {"model": "exercise_watch", "version": 1}}
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    urllib3.request("POST", f"{hub.address}/api/v1/report", body=json.dumps(beat).encode(), headers=headers)
    return secret


if __name__ == "__main__":
    main(measure)
