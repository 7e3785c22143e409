"""What others do to the agent's answers: the page open in ten browsers, and clients that send a byte now and then."""

from __future__ import annotations

import contextlib
import http.client
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
