"""An outbox that writes and sends, killed again and again: is every row that was said to be safe at the hub, and once?

Run as a script it is the process that is killed: `python outbox_kills.py FILE HUB CREDENTIAL SEED` puts rows and writes the key of
each committed one to standard output.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.outbox.sender import send
from edgeloop_agent.outbox.store import Outbox
from edgeloop_agent.outbox.store import Row as Kept
from edgeloop_contract.errors import NetworkError
from edgeloop_contract.messages import Sample
from edgeloop_pipeline.fleet.hub_connection import HubConnection
from harness import BIN, Row, at_most
from shaped import free_port

HUB_EVERY = 100  # kills of the device to one of the hub
LIMITS = ("--set", "sample_bytes_per_day=100000000000", "--set", "report_quota_per_hour=1000000000")
MAX_BYTES = 1 << 30


class Twice:
    """The hub over a network that repeats itself: every third upload arrives a second time, after the next one."""

    def __init__(self, hub: HubClient) -> None:
        self.hub, self.count, self.before = hub, 0, b""

    def samples(self, body: bytes) -> None:
        self.hub.samples(body)
        self.count += 1
        if self.before and self.count % 3 == 0:
            self.hub.samples(self.before)
        self.before = body


def work(path: str, hub: str, credential: str, seed: int) -> None:
    settings = Settings(send="samples", max_upload_bytes_per_day=MAX_BYTES)

    def sender() -> None:
        outbox, there = Outbox(Path(path), MAX_BYTES, check=False), Twice(HubClient(hub, credential, "", 2.0))
        while True:
            with contextlib.suppress(NetworkError):
                send(outbox, there, settings, time.monotonic() + 5)
            time.sleep(0.02)

    outbox, rng = Outbox(Path(path), MAX_BYTES), random.Random(seed)
    threading.Thread(target=sender, daemon=True).start()
    values = zlib.compress(np.arange(600, dtype=np.int16).tobytes())
    number = 0
    while True:
        key = f"pi-{seed:06}-{number:06}"
        sample = Sample(
            key=key, at=time.time(), kind="random", model="m", sha256="0" * 64, recording=f"r{seed}", random=True,
            value=rng.random(), dtype="int16", shape=[600], data=values,
        )  # fmt: skip
        outbox.put([Kept(key, "random", sample.value, msgspec.msgpack.encode(sample))])
        sys.stdout.write(key + "\n")
        sys.stdout.flush()
        number += 1


@dataclass
class Hub:
    """A real one that can be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *words: str) -> str:
        full = [BIN / "edgeloop-hub", "--data", self.folder / "data", *words]
        return subprocess.run(full, capture_output=True, text=True, check=True).stdout.strip()

    def start(self) -> None:
        words = [BIN / "edgeloop-hub", "--data", self.folder / "data", "serve", "--port", str(self.port), *LIMITS]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as tried:
                if tried.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit("the hub does not answer")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def enrolled(self) -> str:
        """A device's credential."""
        token = self.command("token", "api", "bench")
        about = {**os.environ, "EDGELOOP_HUB": self.address, "EDGELOOP_HUB_TOKEN": token}
        subprocess.run([BIN / "edgeloop", "keys", "init"], cwd=self.folder, env=about, capture_output=True, check=True)
        enrolment = {"token": self.command("token", "enrol", "pi"), "device": "pi"}
        return str(HubConnection(self.address, token).post("/api/v1/enrol", enrolment, dict[str, str])["credential"])


def outbox_kills(quick: bool) -> Iterator[Row]:
    """Killed at random moments; the hub too, now and then; a third of the uploads arrive twice."""
    kills, rng = 20 if quick else 500, np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        hub, safe, seconds = Hub(folder, free_port()), set(), 0.0
        hub.start()
        credential = hub.enrolled()
        for kill in range(kills):
            words = [sys.executable, __file__, folder / "outbox.sqlite", hub.address, credential, str(kill)]
            child = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            told = [child.stdout.readline()]
            begun = time.monotonic()
            hub_too = kill % HUB_EVERY == HUB_EVERY - 1
            if hub_too:
                hub.kill()
            time.sleep(float(rng.uniform(0.005, 0.2)))
            child.kill()
            told += child.stdout.read().splitlines(keepends=True)
            seconds += time.monotonic() - begun
            child.wait()
            safe |= {line.strip() for line in told if line.endswith("\n")}
            if hub_too:
                hub.start()
        outbox = Outbox(folder / "outbox.sqlite", MAX_BYTES)
        there = HubClient(hub.address, credential, "", 10.0)
        send(outbox, there, Settings(send="samples", max_upload_bytes_per_day=1 << 40), time.monotonic() + 600)
        with sqlite3.connect(folder / "data" / "hub.sqlite") as connection:
            arrived = [key for (key,) in connection.execute("SELECT key FROM samples")]
        hub.kill()
    yield at_most(f"outbox: rows lost, of {len(safe):,} that were safe, {kills} kills", len(safe - set(arrived)), "", 0)
    yield at_most("  rows stored twice", len(arrived) - len(set(arrived)), "", 0)
    yield Row("  rows put a second, while sending", len(safe) / seconds, "1/s")


if __name__ == "__main__":
    work(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
