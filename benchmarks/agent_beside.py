"""What others do to the agent: the page open in ten browsers, clients that drip bytes, four bodies of 64 MiB at once."""

from __future__ import annotations

import contextlib
import http.client
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from onnx import helper

from bundles import F, onnx_file, write
from edgeloop_contract.manifest import Input, TensorSpec
from harness import Row, at_most
from serving import Agent, serving

VIEWERS, DRIPPING, TURNS = 10, 100, 4
INFER = "/v2/models/exercise_watch/infer"
BODY = b'{"inputs":[{"name":"input","shape":[1,100,6],"datatype":"INT16","data":[%s]}]}' % b",".join([b"0"] * 600)


def beside(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "[api]\nport = 0\n") as agent:
        seconds, alone, watched = 2.0 if quick else 10.0, list[float](), list[float]()
        for _ in range(TURNS):
            alone += answers(agent, "POST", INFER, seconds)
            with viewers(agent):
                watched += answers(agent, "POST", INFER, seconds)
        later = 1e3 * float(np.percentile(watched, 99) - np.percentile(alone, 99))
        yield at_most(f"page open {VIEWERS} times: answers later by, p99", round(later, 2), "ms", 1)
        stop = threading.Event()
        held = dripping(agent, stop)
        taken = answers(agent, "GET", "/v2/health/live", seconds)
        stop.set()
        for connection in held:
            connection.close()
        yield at_most(f"{DRIPPING} clients that drip: the slowest health answer", round(1e3 * max(taken), 2), "ms", 50)

    yield from large_bodies()


def large_bodies() -> Iterator[Row]:
    """Requests that fit the model and fill the largest body, in numbers of two bytes: nothing takes more room for its text."""
    shape, batch = [1024, 1024, 3], 10
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)]
    model = onnx_file(nodes, [("x", F, ["n", *shape])], [("y", F, ["n", 3])])
    given, made = (
        TensorSpec(dtype="float32", shape=size, name=name, tensor=tensor, batch="any")
        for size, name, tensor in ((shape, "", "x"), ([3], "y", "y"))
    )
    numbers = b"0," * (batch * 1024 * 1024 * 3 - 1) + b"0"
    described = b'{"inputs":[{"name":"input","shape":[%d,1024,1024,3],"datatype":"FP32","data":[%s]}]}'
    body = described % (batch, numbers)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write(Path(folder) / "b.edgeloop", model, [Input(name="input", sample=given)], [given], [made], name="big")
        with serving(Path(folder), "[api]\nport = 0\n[runtime]\nthreads = 1\n", bundle) as agent, ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda _: _posted(agent, "/v2/models/big/infer", body), range(4)))
            peak = sum(_most_mb(pid) for pid in (agent.process.pid, agent.worker()))
    answered = f"{statuses.count(200)} of 4 bodies of {len(body) >> 20} MiB answered"
    yield at_most(f"{answered}: most memory of the agent", round(peak), "MB", 300)


def _posted(agent: Agent, path: str, body: bytes) -> int:
    connection = http.client.HTTPConnection(agent.address.removeprefix("http://"), timeout=60)
    connection.request("POST", path, body)
    return connection.getresponse().status


def _most_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def answers(agent: Agent, method: str, path: str, seconds: float) -> list[float]:
    """Seconds of each request, on a connection of its own kind that stays open where it can."""
    connection, taken = http.client.HTTPConnection(agent.address.removeprefix("http://"), timeout=10), list[float]()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        connection.request(method, path, BODY if method == "POST" else None)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        taken.append(time.perf_counter() - began)
    connection.close()
    return taken


@contextlib.contextmanager
def viewers(agent: Agent) -> Iterator[None]:
    """Connections that read the page's events, as browsers do."""
    held = list[socket.socket]()
    for _ in range(VIEWERS):
        connection = http.client.HTTPConnection(agent.address.removeprefix("http://"), timeout=10)
        connection.request("GET", "/page/events")
        held.append(connection.sock)  # the answer takes it over
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        threading.Thread(target=_reads, args=(answer,), daemon=True).start()
    try:
        yield
    finally:
        for sock in held:
            sock.shutdown(socket.SHUT_RDWR)
        time.sleep(1.5)  # the agent notices with the next event


def _reads(answer: http.client.HTTPResponse) -> None:
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException, AttributeError):
        while answer.read1(1 << 16):
            pass


def dripping(agent: Agent, stop: threading.Event) -> list[socket.socket]:
    """Clients that send a byte of a request five times a second."""
    host, port = agent.address.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(DRIPPING)]
    request = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n".encode()

    def feed() -> None:
        for byte in request + bytes(9000):
            for connection in held:
                with contextlib.suppress(OSError):
                    connection.send(bytes([byte]))
            if stop.wait(0.2):
                return

    threading.Thread(target=feed, daemon=True).start()
    return held
