"""Other sides that send the head of their answer a byte now and then: each request has one deadline."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from edgeloop_agent.config import Output
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.outputs.messages import Message
from edgeloop_agent.outputs.webhook import Webhook
from edgeloop_contract.errors import NetworkError

HEAD = b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200


@contextlib.contextmanager
def dripping(content: bytes, at_once: int = 0) -> Iterator[str]:
    """An address whose answers come a byte each tenth of a second, after the first `at_once` bytes."""
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.recv(1 << 16)
                peer.sendall(content[:at_once])
                for byte in content[at_once:]:
                    if ended.wait(0.1):
                        return
                    peer.sendall(bytes([byte]))

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        ended.set()
        server.close()


def message() -> Message:
    return Message(id="1", time="2026-01-01T00:00:00Z", body=b"{}")


def test_a_webhook_that_drips_its_head_is_cut_and_tried_again_later() -> None:
    with dripping(HEAD) as address:
        hook = Webhook(Output(kind="http", where=address, timeout_seconds=0.5), "shed", False)
        began = time.monotonic()
        delivered = hook.send([message(), message()])
        assert time.monotonic() - began < 3 and delivered.count == 0 and "timed out" in delivered.why
        hook.close()


def test_a_webhook_that_drips_its_body_has_the_message() -> None:
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 500
    with dripping(whole, at_once=whole.index(b"xx")) as address:
        hook = Webhook(Output(kind="http", where=address, timeout_seconds=0.5), "shed", False)
        began = time.monotonic()
        assert hook.send([message()]).count == 1 and time.monotonic() - began < 3
        hook.close()


def test_a_hub_that_drips_its_head_is_cut() -> None:
    with dripping(HEAD) as address:
        began = time.monotonic()
        with pytest.raises(NetworkError, match="timed out"):
            HubClient(address, "x", "", 0.5).assignment("")
        assert time.monotonic() - began < 3
