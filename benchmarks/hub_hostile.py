"""One hostile device beside a thousand good ones, and a thousand requests that are sent by half.

The good ones are the test devices of `edgeloop-hub load`, at a steady rate. The hostile one has a process and addresses of its own
on the same cores: reports with every field at its worst, as fast as they are answered; heads that come a byte a second; uploads
that unpack to a hundred times their size. Everything goes over HTTP to `edgeloop-hub serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from databases import on_each
from edgeloop_hub.load.connection import Address
from edgeloop_hub.load.figures import Figures
from edgeloop_hub.load.run import Plan, load
from harness import Row, at_most, main
from hub_fleet import enrolled
from hubs import Hub, running_hub

GOOD, RATE = 1000, 60.0  # devices; requests a second of all: a poll and a report of each in half a minute
HALVES = 1000
HEALTH_MS, TIMES_P99 = 100.0, 2.0
EVIL = "127.0.0.2"


def measure(quick: bool) -> Iterator[Row]:
    yield from on_each(quick, lambda kind, address: beside(kind, address, quick))


def beside(kind: str, database: str, quick: bool) -> Iterator[Row]:
    seconds = 8.0 if quick else 25.0
    words = ("--database", database) if database else ()
    with tempfile.TemporaryDirectory() as folder, running_hub(Path(folder) / "hub", *words, serve=("--workers", "2")) as hub:
        good = [str(enrolled(hub, f"pi-{i:04}")["credential"]) for i in range(100 if quick else GOOD)]
        mad = str(enrolled(hub, "mad-1")["credential"])
        _load(hub, good, 3.0)
        alone = _load(hub, good, seconds)
        over = multiprocessing.get_context("spawn").Event()
        process = multiprocessing.get_context("spawn").Process(target=_rage, args=(hub.address, mad, over))
        process.start()
        try:
            time.sleep(3)
            attacked = _load(hub, good, seconds)
        finally:
            over.set()
            process.join(20)
        for what in ("reports", "polls"):
            calm, beside_it = alone[what], attacked[what]
            bad = sum(beside_it.refused.values()) + sum(beside_it.failed.values())
            yield at_most(
                f"{kind}: {what} of {len(good):,} good devices refused or lost, of {beside_it.answered + bad:,}", bad, "", 0
            )
            p99, before = beside_it.percentile(0.99), calm.percentile(0.99)
            yield Row(f"… their p99 alone; beside the hostile one {1e3 * p99:.0f} ms", 1e3 * before, "ms")
            yield at_most("… how many times longer", p99 / before, "×", TIMES_P99)
        for what, parts in (("heads", HEAD), ("bodies", BODY)):
            yield from half_sent(kind, hub, what, parts % mad.encode() if b"%s" in parts else parts)


def _load(hub: Hub, good: list[str], seconds: float) -> dict[str, Figures]:
    return asyncio.run(load(Address.of(hub.address), good, Plan(16, seconds, RATE), asyncio.Event())).figures


def _rage(address: str, secret: str, over: Any) -> None:
    asyncio.run(_all(address, secret, over))


async def _all(address: str, secret: str, over: Any) -> None:
    host, port = address.removeprefix("http://").split(":")
    reports = [_asks(host, int(port), over, lambda: _request("/api/v1/report", secret, _worst())) for _ in range(8)]
    bombs = [
        _asks(host, int(port), over, lambda: _request("/api/v1/outbox", secret, BOMBS, "application/msgpack")) for _ in range(2)
    ]
    slow = [_drips(host, int(port), over) for _ in range(150)]
    await asyncio.gather(*reports, *bombs, *slow)


async def _asks(host: str, port: int, over: Any, request: Any) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, ValueError):
            reader, writer = await asyncio.open_connection(host, port, local_addr=(EVIL, 0))
            try:
                while not over.is_set():
                    writer.write(request())
                    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)).lower()
                    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            finally:
                writer.close()


async def _drips(host: str, port: int, over: Any) -> None:
    while not over.is_set():
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port, local_addr=(EVIL, 0))
            writer.write(b"POST /api/v1/report HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            while not over.is_set() and not writer.is_closing():
                writer.write(b"a")
                await asyncio.sleep(1)


def _request(path: str, secret: str, body: bytes, kind: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {secret}", f"Content-Type: {kind}"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "\r\n"])
    return head.encode() + body


def _worst() -> bytes:
    """Every field at its worst that is taken: a thousand labels, the longest texts, a hundred events, thirty other bundles."""
    text, key = "ä" * 190, os.urandom(16).hex()
    beat = {
        "model": "exercise_watch", "version": 2**53, "sha256": os.urandom(32).hex(), "target": text, "since": 1e11, "seconds": 3e7,
        "answered": 2**53, "refused": 2**53, "dropped": 2**53, "crashes": int.from_bytes(os.urandom(6)), "latency_us_p95": 3.6e9,
        "confidence": {"count": 2**53, "mean": 1.0, "variance": 1.0}, "drift": 1e18, "celsius": 1e4, "memory_bytes": 2**53,
        "labels": {f"{i} {key}"[:40]: 2**53 for i in range(1000)}, "machine": text, "agent": text, "runtime": text, "reads": 2**53,
    }  # fmt: skip
    events = [{"key": f"{key}{i:03}", "kind": "failed", "at": 1.0, "target": text, "text": "ä" * 1900} for i in range(100)]
    drift = {
        "model": "exercise_watch", "sha256": "f" * 64, "samples": 2**53, "score": 1e18, "alarms": 2**53, "drifting": True,
        "text": "ä" * 1900, "shifts": {f"made up {key} {i}": 1e18 for i in range(100)}, "confidence": [2**53] * 10,
        "faults": {f"{i}{key}": 2**53 for i in range(50)},
    }  # fmt: skip
    others = [{**beat, "model": f"other-{i}", "labels": {}} for i in range(31)]
    whole = {
        "key": key,
        "at": time.time(),
        "heartbeat": beat,
        "events": events,
        "drift": drift,
        "others": others,
        "log": [text] * 20,
    }
    return json.dumps(whole, ensure_ascii=False).encode()


def _bombs() -> bytes:
    import msgspec

    packed = zlib.compress(bytes(16 << 20), 9)
    sample = {
        "at": 1.0, "kind": "random", "model": "exercise_watch", "sha256": "f" * 64, "recording": "r", "dtype": "uint8",
        "shape": [16384, 1024], "data": packed,
    }  # fmt: skip
    return msgspec.msgpack.encode({"samples": [{**sample, "key": f"bomb-{i:05}"} for i in range(40)]})


BOMBS = _bombs()
HEAD = b"POST /api/v1/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bear"
BODY = b"\r\n".join(
    (
        b"POST /api/v1/report HTTP/1.1",
        b"Host: x",
        b"Authorization: Bearer %s",
        b"Content-Type: application/json",
        b"Content-Length: 5000",
        b"",
        b'{"key',
    )
)


def half_sent(kind: str, hub: Hub, what: str, part: bytes) -> Iterator[Row]:
    """A thousand connections from fifty addresses, each with the beginning of a request; then health, on new connections."""
    host, port = hub.address.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        for i in range(HALVES):
            wire = stack.enter_context(socket.socket())
            wire.bind((f"127.0.1.{1 + i % 50}", 0))
            wire.connect((host, int(port)))
            wire.sendall(part)
        time.sleep(1)
        taken = []
        for _ in range(100):
            begun = time.perf_counter()
            with socket.create_connection((host, int(port)), timeout=10) as wire:
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert b" 200 " in wire.recv(4096).split(b"\r\n")[0]
            taken.append(time.perf_counter() - begun)
    yield at_most(
        f"{kind}: beside {HALVES:,} requests with half {what}: health answers, p99 of 100", 1e3 * sorted(taken)[98], "ms", HEALTH_MS
    )


if __name__ == "__main__":
    main(measure)
