"""A device on a shaped link, for benchmarks: a network namespace (bandwidth), a relay (delay, loss, faults), a CPU quota."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from harness import BIN

NAMESPACE, HERE, THERE = "edgeloop-device", "10.77.0.1", "10.77.0.2"
CLONE_NEWNET = 0x40000000
CGROUP = Path("/sys/fs/cgroup/cpu/edgeloop-device")
T = TypeVar("T")
_pace = {"share": 1.0}  # of one core, for agents that are started later too


def run(*words: object) -> None:
    subprocess.run(list(map(str, words)), check=True, capture_output=True)


@dataclass
class Link:
    """`mbit` both ways, `round_trip` seconds, `loss` a share of packets."""

    relay: subprocess.Popen[str]
    mbit: float = 0.0

    def shape(self, mbit: float | None = None, round_trip: float | None = None, loss: float | None = None, mode: str = "") -> None:
        if mbit is not None and mbit != self.mbit:
            burst = max(1600, int(mbit * 1e6 / 8 / 250))
            ours = f"--net=/proc/{os.getpid()}/ns/net"  # the caller's thread may be on the device's network
            for prefix, device in ((("nsenter", ours), "el-here"), (("ip", "netns", "exec", NAMESPACE), "el-there")):
                how = ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", f"{mbit}mbit"]
                run(*prefix, *how, "burst", burst, "limit", 4_000_000)
            self.mbit = mbit
        said = {"delay": None if round_trip is None else round_trip / 2, "loss": loss, "mode": mode or None}
        self.tell({name: value for name, value in said.items() if value is not None})

    def tell(self, said: dict[str, Any]) -> None:
        assert self.relay.stdin and self.relay.stdout
        self.relay.stdin.write(json.dumps(said) + "\n")
        self.relay.stdin.flush()
        self.relay.stdout.readline()


@contextlib.contextmanager
def shaped_link(to_port: int, port: int) -> Iterator[Link]:
    """Needs root. What the device reaches at `HERE`:`port` is `to_port` of this machine."""
    _remove()
    run("ip", "netns", "add", NAMESPACE)
    relay = None
    try:
        run("ip", "link", "add", "el-here", "type", "veth", "peer", "name", "el-there")
        run("ip", "link", "set", "el-there", "netns", NAMESPACE)
        run("ip", "addr", "add", f"{HERE}/24", "dev", "el-here")
        run("ip", "link", "set", "el-here", "up")
        for words in (
            ("addr", "add", f"{THERE}/24", "dev", "el-there"),
            ("link", "set", "el-there", "up"),
            ("link", "set", "lo", "up"),
        ):
            run("ip", "netns", "exec", NAMESPACE, "ip", *words)
        relay = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("relay.py"), HERE, str(port), "127.0.0.1", str(to_port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert relay.stdout
        relay.stdout.readline()
        yield Link(relay)
    finally:
        if relay is not None:
            relay.kill()
            relay.wait()
        _remove()


def _remove() -> None:
    """The namespace with whatever still runs in it, and the link."""
    found = subprocess.run(["ip", "netns", "pids", NAMESPACE], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    for words in (("netns", "del", NAMESPACE), ("link", "del", "el-here")):
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", *words)


def pace(share: float) -> None:
    """Every agent has so much of one core from now on (1: no limit), for itself: each is a device of its own."""
    CGROUP.mkdir(exist_ok=True)
    _pace["share"] = share
    for group in CGROUP.iterdir():
        if group.is_dir():
            _limit(group)


def _limit(group: Path) -> None:
    share = _pace["share"]
    period = 4000 if share >= 0.25 else int(1000 / share)
    (group / "cpu.cfs_quota_us").write_text("-1")
    (group / "cpu.cfs_period_us").write_text(str(period))
    if share < 1:
        (group / "cpu.cfs_quota_us").write_text(str(max(1000, int(period * share))))


def _enter() -> None:
    group = CGROUP / str(os.getpid())
    group.mkdir(parents=True, exist_ok=True)
    _limit(group)
    (group / "cgroup.procs").write_text(str(os.getpid()))


def in_namespace(action: Callable[[], T]) -> T:
    """Call `action` in a thread that is on the device's network."""

    def work() -> T:
        handle = os.open(f"/var/run/netns/{NAMESPACE}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)
        return action()

    with ThreadPoolExecutor(1) as pool:  # the thread ends with it: a network is a thread's own
        return pool.submit(work).result()


@dataclass
class Agent:
    """One agent on the device."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    http: urllib3.PoolManager = field(default_factory=lambda: urllib3.PoolManager(retries=False))

    def infer(self, model: str, body: bytes, length: int) -> tuple[float, str]:
        """Milliseconds of one request to its API, and where the answer came from. Call it in the namespace."""
        from edgeloop_contract import inference

        start = time.perf_counter()
        answer = self.http.request(
            "POST", f"http://127.0.0.1:{self.port}/v2/models/{model}/infer", body=body,
            headers={inference.HEADER_LENGTH: str(length)}, timeout=120,
        )  # fmt: skip
        took = (time.perf_counter() - start) * 1e3
        _, said = inference.decode_response(answer.data, int(answer.headers[inference.HEADER_LENGTH]))
        return took, str(said.get("place", ""))

    def split(self) -> Any:
        return json.loads(self.http.request("GET", f"http://127.0.0.1:{self.port}/split", timeout=20).data)[0]

    def halt(self, halted: bool) -> None:
        """An agent that is not measured takes nothing of the device."""
        number = signal.SIGSTOP if halted else signal.SIGCONT
        for pid in [self.process.pid, *_children(self.process.pid)]:
            os.kill(pid, number)

    def stop(self) -> None:
        self.halt(False)
        self.process.kill()
        for pid in _children(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):  # its last children may still be going
            (CGROUP / str(self.process.pid)).rmdir()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def start_agent(folder: Path, bundle: Path, hub_port: int, split: str, token: str) -> Agent:
    """Started by its command on the device, its split as in `split` (TOML), the tail behind `HERE`:`hub_port`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "token").write_text(token)
    (folder / "agent.toml").write_text(
        f'bundles = ["{bundle}"]\nstate = "state"\n[output]\nwhere = "none"\n'
        f"[api]\nport = {port}\ntimeout_seconds = 3600\n[drift]\nenabled = false\n"
        f'[runtime]\nvariant = "onnx-int8"\nthreads = 1\n[limits]\nhang_seconds = 600\n'
        f'[split]\nenabled = true\n{split}\n[[split.tails]]\naddress = "http://{HERE}:{hub_port}"\ntoken_file = "token"\n'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", NAMESPACE, BIN / "edgeloop-agent", "serve", folder / "agent.toml"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=_enter,
        )  # fmt: skip
    agent = Agent(process, folder, port)
    deadline = time.monotonic() + 120
    while b" ready " not in (folder / "log").read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit((folder / "log").read_text())
        time.sleep(0.05)
    return agent


@contextlib.contextmanager
def hub_with(bundles: list[Path], folder: Path, *words: str) -> Iterator[tuple[int, str]]:
    """A real hub that published these; its port, and a token for tails."""
    port, data = free_port(), folder / "data"
    process = subprocess.Popen(
        [BIN / "edgeloop-hub", "--data", data, "serve", "--port", str(port), *words],
        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                break
            time.sleep(0.1)
        token = subprocess.run(
            [BIN / "edgeloop-hub", "--data", data, "token", "api", "bench"], capture_output=True, text=True, check=True
        ).stdout.strip()
        about = {**os.environ, "EDGELOOP_HUB": f"http://127.0.0.1:{port}", "EDGELOOP_HUB_TOKEN": token}
        subprocess.run([BIN / "edgeloop", "keys", "init"], cwd=folder, env=about, check=True, capture_output=True)
        for bundle in bundles:
            subprocess.run([BIN / "edgeloop", "publish", bundle], cwd=folder, env=about, check=True, capture_output=True)
        yield port, token
    finally:
        process.terminate()
        process.wait(20)
