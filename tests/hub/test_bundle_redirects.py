"""Bundles that devices fetch from an object store, by addresses that the hub signs: moto's S3 behind a server that notes requests."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3

from commands import command
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.redirects import Redirects
from edgeloop_contract.errors import NetworkError
from hubs import Hub, running_hub, say_hello, version
from serving import write_config
from test_hub_stores import s3
from update_bench import Bench, fetched, served

Answer = Callable[[Any, bytes], None]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@dataclass
class Store:
    """What was asked of it with signed addresses. `instead`: answers to the next of them, in place of S3's."""

    asked: list[dict[str, str]] = field(default_factory=list)
    instead: list[Answer] = field(default_factory=list)


@contextmanager
def noting(upstream: str) -> Iterator[tuple[str, Store]]:
    """S3's server behind one that notes what signed addresses are asked for."""
    store, pool = Store(), urllib3.PoolManager(retries=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = pool.request(self.command, upstream + self.path, headers=dict(self.headers.items()), body=body)
            if "X-Amz-Signature" in self.path:
                store.asked.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
                if store.instead:
                    store.instead.pop(0)(self, answer.data)
                    return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.headers.get("Content-Length", str(len(answer.data))))
            self.end_headers()
            self.wfile.write(answer.data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", store
    finally:
        server.shutdown()
        server.server_close()


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: Any, _: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def broken_off(handler: Any, content: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[:30_000])
    handler.close_connection = True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Store]]:
    folder = tmp_path_factory.mktemp("redirects")
    with s3() as blobs, noting(os.environ["AWS_ENDPOINT"]) as (address, store):
        os.environ["AWS_ENDPOINT"] = address
        with running_hub(folder, "--blobs", blobs) as hub:
            yield hub, store


def a_device(place: tuple[Hub, Store], folder: Path, number: int) -> Path:
    """Enrolled, and offered a version; its config."""
    hub, store = place
    store.asked.clear()
    config = write_config(folder, f'[updates]\nhub = "{hub.address}"\n')
    hub.enrol(config, f"pi-{number}")
    say_hello(hub, folder)
    target = hub.publish(version(folder, number), "--no-delta")
    for line in hub.edgeloop("rollout", "status").splitlines():
        if "running" in line:
            hub.edgeloop("rollout", "abort", line.split()[0])
    hub.edgeloop("rollout", "start", target, "--steps", "100%", "--soak-minutes", "0")
    return config


def update(config: Path) -> str:
    done = command("edgeloop-agent", "update", config)
    return done.stdout + done.stderr


def test_bytes_come_from_the_store_and_the_credential_stays_with_the_hub(place: tuple[Hub, Store], tmp_path: Path) -> None:
    config = a_device(place, tmp_path, 2)
    assert "is staged" in update(config)
    (asked,) = place[1].asked
    assert "/hub/fleet/bundles/" in asked["path"] and "X-Amz-Expires=300" in asked["path"]
    assert "authorization" not in asked and "edgeloop" not in str(asked["user-agent"]).lower()


@pytest.mark.long
def test_an_expired_address_is_signed_once_more(place: tuple[Hub, Store], tmp_path: Path) -> None:
    config = a_device(place, tmp_path, 3)
    place[1].instead = [says(403, b"Request has expired")]
    assert "is staged" in update(config) and len(place[1].asked) == 2


@pytest.mark.long
def test_a_store_that_is_of_no_use_leaves_the_hub(place: tuple[Hub, Store], tmp_path: Path) -> None:
    config = a_device(place, tmp_path, 4)
    place[1].instead = [says(403)] * 2
    said = update(config)
    assert "is staged" in said and "from the hub itself" in said and "status 403" in said and "X-Amz" not in said
    assert len(place[1].asked) == 2


@pytest.mark.long
def test_other_bytes_than_signed_are_refused(place: tuple[Hub, Store], tmp_path: Path) -> None:
    config = a_device(place, tmp_path, 5)
    place[1].instead = [lambda handler, content: says(200, b"x" * len(content))(handler, b"")]
    said = update(config)
    assert "not those that were signed" in said and "is staged" not in said
    assert not list((tmp_path / "state" / "updates").glob("*.partial"))
    assert "is staged" in update(config)


@pytest.mark.long
def test_a_download_goes_on_where_the_store_broke_it_off(place: tuple[Hub, Store], tmp_path: Path) -> None:
    config = a_device(place, tmp_path, 6)
    place[1].instead = [broken_off]
    assert "is staged" not in update(config)
    assert "is staged" in update(config)
    assert [a.get("range") for a in place[1].asked] == [None, "bytes=30000-"]


def test_an_agent_that_follows_no_redirect_gets_the_bytes(place: tuple[Hub, Store], tmp_path: Path) -> None:
    config = a_device(place, tmp_path, 7)
    secret = (config.parent / "state" / "updates" / "credential.json").read_text().split('"secret":"')[1].split('"')[0]
    one = next(b for b in place[0].get("/api/v1/bundles") if b["version"] == 7)
    address = f"{place[0].address}/tuf/targets/{one['sha256']}.{one['target']}"
    plain = urllib3.request("GET", address, headers={"Authorization": f"Bearer {secret}"}, redirect=False)
    assert plain.status == 200 and len(plain.data) == one["bytes"] and not place[1].asked
    new = {"Authorization": f"Bearer {secret}", "Edgeloop-Redirects": "1"}
    asked = urllib3.request("GET", address, headers=new, redirect=False)
    assert asked.status == 307 and not asked.data and asked.headers["Cache-Control"] == "no-store"
    # The right to fetch it is looked at first, as before.
    assert urllib3.request("GET", address.replace(".exercise", ".another"), headers=new, redirect=False).status == 404


HTTPS = "https://hub.example:8700"


@pytest.mark.parametrize(
    ("hub", "location", "why"),
    [
        (HTTPS, "http://store.example/x?secret", "not encrypted"),
        (HTTPS, "ftp://store.example/x", "no http"),
        (HTTPS, "file:///etc/passwd", "no http"),
        (HTTPS, "https://127.0.0.1:1/x", "this device itself"),
        ("http://hub.example", "http://[::1]:1/x", "this device itself"),
        ("http://127.0.0.1:9", "http://127.0.0.1:1/x?secret", "refused"),
    ],
)
def test_what_is_not_followed(hub: str, location: str, why: str) -> None:
    with pytest.raises(NetworkError, match=why) as error:
        Redirects(hub, "", False, urllib3.Timeout(1)).follow(f"{hub}/tuf/targets/x", location, {})
    assert "secret" not in str(error.value)


def test_redirects_have_an_end_and_the_hub_is_asked_for_the_bytes(bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()
    asked: list[Any] = []

    def round_and_round(handler: Any, content: bytes) -> None:
        asked.append(handler.headers.get("Authorization"))
        follows = handler.headers.get("Edgeloop-Redirects") or not handler.headers.get("Authorization")
        says(302, Location=handler.path)(handler, b"") if follows else says(200, content)(handler, b"")

    with served(bench.repository.folder, round_and_round) as address:
        assert fetched(bench, address).exists()
    assert asked == ["Bearer x", None, None, None, "Bearer x"]


def test_a_redirect_is_followed_for_signed_files_alone(bench: Bench) -> None:
    bench.offer(2)
    bench.repository.publish()
    name = next((bench.repository.folder / "targets").iterdir()).name
    with served(bench.repository.folder, says(302, Location="/elsewhere")) as address:
        client = HubClient(address, "x", "", 2)
        with pytest.raises(NetworkError, match="status 302"):
            client._ask("GET", f"/tuf/targets/{name}", {})
