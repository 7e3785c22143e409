"""A real Mosquitto on a free port, and everything that it was sent; and an HTTP server that takes answers as a test tells it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from paho.mqtt import client as mqtt

from programs import program
from serving import eventually


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Broker:
    """Starts and stops on the same port; `messages`: (topic, payload, retained) as a subscriber of everything got them."""

    def __init__(self) -> None:
        self.port, self.messages = free_port(), list[tuple[str, bytes, bool]]()
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: Any = None

    def start(self) -> None:
        words = [str(program("mosquitto")), "-p", str(self.port)]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._listener = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._listener.on_connect = lambda *_: self._listener.subscribe("#", qos=2)
        self._listener.on_message = lambda _c, _d, m: self.messages.append((m.topic, bytes(m.payload), bool(m.retain)))

        def connected() -> bool:
            self._listener.connect("127.0.0.1", self.port)
            return True

        eventually(connected)
        self._listener.loop_start()
        eventually(self._listener.is_connected)

    def stop(self) -> None:
        if self._listener is not None:
            self._listener.loop_stop()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def of(self, topic: str) -> list[bytes]:
        return [payload for name, payload, _ in list(self.messages) if name == topic]

    def answers(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.of(f"{topic}/answers")]


@contextmanager
def broker() -> Iterator[Broker]:
    here = Broker()
    try:
        here.start()
        yield here
    finally:
        here.stop()


class Receiver:
    """`reply`: the status and headers for each request, given the number of those before; None: no answer for a long time."""

    def __init__(self, reply: Callable[[int], tuple[int, dict[str, str]] | None]) -> None:
        self.reply, self.requests = reply, list[tuple[dict[str, str], dict[str, Any]]]()
        self.tries, self._release = 0, threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                said, outer.tries = outer.reply(outer.tries), outer.tries + 1
                if said is None:
                    outer._release.wait(60)
                    return
                if said[0] < 300:
                    outer.requests.append(({name.lower(): value for name, value in self.headers.items()}, json.loads(body)))
                self.send_response(said[0])
                for name, value in {"Content-Length": "0", **said[1]}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}/answers"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiver(reply: Callable[[int], tuple[int, dict[str, str]] | None] = lambda _: (204, {})) -> Iterator[Receiver]:
    here = Receiver(reply)
    try:
        yield here
    finally:
        here.close()


def settled(count: Callable[[], int], seconds: float = 1.5) -> int:
    """The count, once it did not change for so long."""
    last, since = count(), time.monotonic()
    while time.monotonic() < since + seconds:
        time.sleep(0.05)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last
