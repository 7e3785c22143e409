"""nginx and Caddy in front of a hub, with the lines of docs/hub.md: only ports and the certificate's place are other ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from commands import HERE
from hubs import Hub, free_port, running_hub
from programs import needs, program
from receivers import certificate
from serving import eventually

PASSWORD = "correct horse battery"
HOST = "hub.example"
MAX_PART = 8 << 20
STRANGER, OWNER = "127.0.0.2", "127.0.0.3"
pytestmark = pytest.mark.long


def documented(language: str, folder: Path, port: int, hub: int) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (HERE.parent / "docs" / "hub.md").read_text(encoding="utf-8"), re.S)
    assert found is not None
    replaced = {
        "listen 443 ": f"listen 127.0.0.1:{port} ", f"{HOST} {{": f"{HOST}:{port} {{", "127.0.0.1:8700": f"127.0.0.1:{hub}",
        "/etc/ssl/hub.pem": str(folder / "ca.pem"), "/etc/ssl/hub.key": str(folder / "key.pem"),
    }  # fmt: skip
    text = found[1]
    for before, after in replaced.items():
        text = text.replace(before, after)
    return text


def nginx(folder: Path, port: int, hub: int) -> list[str]:
    (folder / "tmp").mkdir()
    places = "".join(f"{kind}_temp_path {folder}/tmp/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;\n" if not os.geteuid() else ""
    around = f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\nhttp {{\naccess_log off;\n{places}"
    (folder / "nginx.conf").write_text(around + documented("nginx", folder, port, hub) + "}\n")
    return [str(program("nginx-light")), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


def caddy(folder: Path, port: int, hub: int) -> list[str]:
    options = "{\n    admin off\n    auto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + documented("caddy", folder, port, hub))
    return [str(program("caddy")), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


PROXIES: dict[str, Callable[[Path, int, int], list[str]]] = {"nginx": nginx, "caddy": caddy}


@contextmanager
def running_proxy(name: str, folder: Path, hub: int) -> Iterator[int]:
    folder.mkdir()
    certificate(folder, HOST)
    port = free_port()
    words = PROXIES[name](folder, port, hub)
    home = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=home)
    try:
        eventually(lambda: Client(folder, port, OWNER).ask("GET", "/healthz")[0] == 200, 15)
        yield port
    finally:
        process.terminate()
        process.wait(20)


class Client:
    """Comes from an address of its own, and knows the proxy by its certificate."""

    def __init__(self, folder: Path, port: int, address: str) -> None:
        self.pool = urllib3.HTTPSConnectionPool(
            "127.0.0.1", port, source_address=(address, 0), server_hostname=HOST, assert_hostname=HOST, retries=False, timeout=20,
            ssl_context=ssl.create_default_context(cafile=str(folder / "ca.pem")),
        )  # fmt: skip
        self.headers = {"Host": f"{HOST}:{port}"}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
        try:
            answer = self.pool.request(method, path, body=body, headers={**self.headers, **headers}, redirect=False)
        except urllib3.exceptions.HTTPError as error:
            raise OSError(str(error)) from error
        return answer.status, answer.headers, answer.data

    def sign_in(self, password: str, **headers: str) -> tuple[int, str]:
        form = urllib.parse.urlencode({"name": "ada", "password": password}).encode()
        origin = {"Origin": f"https://{self.headers['Host']}", "Content-Type": "application/x-www-form-urlencoded"}
        status, answered, _ = self.ask("POST", "/sign-in", form, **origin, **headers)
        return status, answered.get("Set-Cookie", "")


@pytest.mark.parametrize("name", [pytest.param("nginx", marks=needs("nginx-light")), pytest.param("caddy", marks=needs("caddy"))])
def test_a_hub_behind_the_documented_proxy(tmp_path: Path, name: str) -> None:
    port = free_port()
    with running_hub(tmp_path / "hub", keys=False, port=port, serve=("--behind-tls",)) as hub:
        hub.run("user", "add", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
        with running_proxy(name, tmp_path / "proxy", port) as outside:
            stranger, owner = (Client(tmp_path / "proxy", outside, address) for address in (STRANGER, OWNER))
            forged = [{"X-Forwarded-For": f"203.0.113.{n}", "Forwarded": f"for=203.0.113.{n}"} for n in range(7)]
            assert [stranger.sign_in("wrong", **headers)[0] for headers in forged] == [401] * 5 + [429] * 2
            assert stranger.sign_in("wrong", **{"X-Forwarded-For": OWNER})[0] == 429
            assert stranger.sign_in("wrong", **{"X-Forwarded-For": f"{OWNER}, 127.0.0.1"})[0] == 429
            status, cookie = owner.sign_in(PASSWORD)
            assert status == 303 and "secure" in cookie.lower()
            assert _entry(hub)["address"] == OWNER
            _streams(owner, cookie.split(";")[0])
            _takes_the_largest_upload(owner, hub)


def _entry(hub: Hub) -> dict[str, Any]:
    path = hub.folder / "audit.jsonl"
    hub.run("audit", "export", path)
    return next(entry for entry in map(json.loads, reversed(path.read_text().splitlines())) if entry["action"] == "signed in")


def _streams(client: Client, cookie: str) -> None:
    """The first words of a stream come while it is open."""
    begun = time.monotonic()
    answer = client.pool.request("GET", "/live", headers={**client.headers, "Cookie": cookie}, preload_content=False)
    first = next(answer.stream(16))
    assert (
        first.startswith(b"retry")
        and time.monotonic() - begun < 4
        and answer.headers["Content-Type"].startswith("text/event-stream")
    )
    answer.close()


def _takes_the_largest_upload(client: Client, hub: Hub) -> None:
    """As large as the hub takes, and no byte more."""
    token = {"Authorization": f"Bearer {hub.token}", "Content-Type": "application/octet-stream"}
    for size, wanted in ((MAX_PART, {200}), (MAX_PART + 1, {413})):
        body = os.urandom(size)
        path = f"/api/v1/uploads/{hashlib.sha256(body).hexdigest()}/0"
        try:
            status, _, text = client.ask("PUT", path, body, **token)
        except OSError as error:  # a proxy may answer, and close, before all of it is sent
            assert size > MAX_PART, error
            continue
        assert status in wanted, (status, text[:300])
