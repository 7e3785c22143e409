"""A running hub for tests, with keys, and bundles of several versions."""

from __future__ import annotations

import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from commands import BIN, command
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from edgeloop_pipeline.fleet.hub_connection import HubConnection
from serving import GOLDEN, eventually


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def version(folder: Path, number: int, spoil: bool = False, name: str = "exercise_watch") -> Path:
    """The golden bundle as another version. `spoil`: its golden scores are not those that its models give."""
    path = folder / f"{name}-{number}.edgeloop"
    with Bundle.open(GOLDEN) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        manifest = msgspec.structs.replace(bundle.manifest, version=number, name=name)
    if spoil:
        file = manifest.canary.scores.file
        import io

        import numpy as np

        scores = np.load(io.BytesIO(files[file]))
        made = io.BytesIO()
        np.save(made, scores[::-1] + 50)
        files[file] = made.getvalue()
        manifest = msgspec.structs.replace(manifest, files=archive.describe(files))
    archive.write(path, manifest, files)
    return path


@dataclass
class Hub:
    folder: Path
    address: str
    process: subprocess.Popen[bytes]
    words: tuple[str, ...]
    token: str = ""

    def run(self, *words: object, code: int = 0, stdin: str | None = None) -> str:
        """An edgeloop-hub command on this hub."""
        done = command("edgeloop-hub", *self.words, *words, stdin=stdin)
        assert done.returncode == code, (done.returncode, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout.strip() if code == 0 else done.stderr

    def edgeloop(self, *words: object, code: int = 0) -> str:
        """A workstation's command with this hub's token."""
        done = command("edgeloop", *words, cwd=self.folder, EDGELOOP_HUB=self.address, EDGELOOP_HUB_TOKEN=self.token)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    @property
    def http(self) -> HubConnection:
        """Its interface, with the answers as they are on the wire."""
        return HubConnection(self.address, self.token)

    def get(self, path: str) -> Any:
        return self.http.get(path, object)

    def post(self, path: str, body: object) -> Any:
        return self.http.post(path, body, object)

    def packed(self, path: str) -> Any:
        return self.http.get_packed(path, object)

    def publish(self, path: Path, *more: object) -> str:
        """The target's name."""
        return self.edgeloop("publish", path, *more).split(":")[0]

    def enrol(self, config: Path, name: str, *more: object) -> None:
        token = self.run("token", "enrol", name, *more)
        done = command("edgeloop-agent", "enrol", config, "--name", name, "--token", token)
        assert done.returncode == 0, done.stderr

    def signed_in(self, name: str, role: str = "admin") -> Callable[..., str]:
        """A person's browser: pages by path, forms by fields."""
        self.run("user", "add", name, "--role", role, "--password-stdin", stdin="correct horse battery\n")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

        def ask(path: str, **form: str) -> str:
            body = urllib.parse.urlencode(form).encode() if form else None
            with browser.open(self.address + path, body, timeout=20) as answer:
                return str(answer.read().decode())

        ask("/sign-in", name=name, password="correct horse battery")
        return ask

    @property
    def log(self) -> str:
        return (self.folder / "hub.log").read_text()


@contextmanager
def running_hub(folder: Path, *words: str, keys: bool = True, serve: tuple[str, ...] = (), port: int = 0) -> Iterator[Hub]:
    """`words`: options before the command, such as --database."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    full = ("--data", str(folder / "data"), *words)
    with (folder / "hub.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "edgeloop-hub", *full, "serve", "--port", str(port), *serve],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ},
        )  # fmt: skip
    hub = Hub(folder, f"http://127.0.0.1:{port}", process, full)
    try:
        eventually(lambda: _answers(port, process))
        hub.token = hub.run("token", "api", "tests") if words else _token(folder / "data" / "hub.sqlite")
        if keys:
            hub.edgeloop("keys", "init")
        yield hub
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _token(database: Path) -> str:
    """As `edgeloop-hub token api tests` makes it, without a process of its own: almost every test wants one."""
    from edgeloop_hub.auth import accounts
    from edgeloop_hub.storage.database import Database

    with Database(f"sqlite:///{database}").writing() as connection:
        return accounts.make_token(connection, "api", "tests", [], None)


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the hub ended"
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def say_hello(hub: Hub, folder: Path) -> None:
    """A first heartbeat of the device of that folder, so that the hub knows what it runs."""
    from edgeloop_agent.hub_client import HubClient
    from edgeloop_contract.messages import Heartbeat, Report

    secret = json.loads((folder / "state" / "updates" / "credential.json").read_text())["secret"]
    beat = Heartbeat(model="exercise_watch", version=1)
    HubClient(hub.address, secret, "", 10).report(Report(key="hello-to-the-hub", at=time.time(), heartbeat=beat))
