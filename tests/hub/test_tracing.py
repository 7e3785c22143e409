"""Traces of the hub, taken by a real receiver of OTLP: what a request did, no secret in them, and a collector that is away."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from commands import command, sentence
from edgeloop_contract.errors import UsageError
from edgeloop_hub.http import tracing
from hubs import free_port, running_hub
from serving import eventually

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="the extra `tracing` is not installed")


@contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    bodies: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()


def test_a_request_and_its_statements_are_one_trace_without_secrets(tmp_path: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    with collector() as (address, bodies):
        with running_hub(tmp_path, serve=("--traces", address)) as hub:
            told = hub.post("/api/v1/enrol", {"token": hub.run("token", "enrol", "pi-1"), "device": "pi-1"})
            for path in ("/healthz", "/metrics", "/style.css", "/api/v1/devices"):
                _asked(hub.address + path, hub.token)
            assert told["credential"]
        spans = [
            span
            for body in bodies
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]  # a hub that is stopped has sent all of them
    named = {span.name: span for span in spans}
    assert not [name for name in named if "healthz" in name or "metrics" in name or "style" in name]
    enrolled = next(span for name, span in named.items() if "/api/v1/enrol" in name)
    statements = [
        span for span in spans if span.trace_id == enrolled.trace_id and span.name.split()[0] in ("SELECT", "INSERT", "UPDATE")
    ]
    assert statements, [(s.name, s.trace_id == enrolled.trace_id) for s in spans if "http" not in s.name]
    every = b"".join(bodies)
    assert b"edgeloop-hub" in every
    for secret in (told["credential"], hub.token):
        assert secret.encode() not in every


def _asked(address: str, token: str) -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        urlopen(Request(address, headers={"Authorization": f"Bearer {token}"}), timeout=10).read()
    except HTTPError as error:
        assert error.code < 500


@pytest.mark.long
def test_a_collector_that_is_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    with running_hub(tmp_path, serve=("--traces", f"http://127.0.0.1:{free_port()}"), keys=False) as hub:
        for _ in range(20):
            began = time.monotonic()
            _asked(hub.address + "/api/v1/devices", hub.token)
            assert time.monotonic() - began < 2
        eventually(lambda: "traces cannot be sent" in (tmp_path / "hub.log").read_text())
    assert (tmp_path / "hub.log").read_text().count("traces cannot be sent") == 1


ADDRESSES = {
    "localhost:4318": "give the collector's address for OTLP by HTTP, such as http://localhost:4318",
    "http://": "give the collector's address",
    "http://ada:secret@localhost:4318": "a name or password in it, which the log would show",
    "http://localhost:4318/v1/traces": "leave /v1/traces out; it is added",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_is_none_is_one_sentence(address: str) -> None:
    with pytest.raises(UsageError, match=ADDRESSES[address]) as refused:
        tracing.check(address)
    assert "secret" not in str(refused.value)


def test_the_command_refuses_an_address_that_is_none(tmp_path: Path) -> None:
    done = command("edgeloop-hub", "--data", tmp_path, "serve", "--traces", "localhost:4318")
    assert ADDRESSES["localhost:4318"] in sentence(done, 2)
