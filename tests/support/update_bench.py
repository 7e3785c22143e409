"""A device whose updates come from a folder, and a server that misbehaves as a test wants it."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeloop_agent.config import Config, load
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.logs import Log
from edgeloop_agent.updates.config_slots import choose, running_config
from edgeloop_agent.updates.cycle import UpdateCycle
from edgeloop_agent.updates.cycle_messages import CycleRequest
from edgeloop_agent.updates.journal import Running, UpdateFolder, update_folder
from edgeloop_agent.updates.slots import running_now, with_slots
from edgeloop_contract.archive import Bundle
from edgeloop_contract.publications import SHIPPED, shipped_file
from fakes.repository import Repository
from hubs import version
from serving import write_config

SEED = Running("exercise_watch", 1, "")


class Bench:
    """A device whose updates come from a folder, and the repository in it. `watched`: the place of the bundle that a test is about."""

    def __init__(self, folder: Path, *bundles: Path, watched: int = 0) -> None:
        self.repository = Repository(folder / "stick")
        self.config: Config = load(write_config(folder, f'[updates]\nfolder = "{folder / "stick"}"\n', *bundles))
        self.watched = watched
        self.folder = UpdateFolder(update_folder(self.config))
        self.folder.path.mkdir(parents=True)
        self.folder.root.write_bytes(self.repository.first_root)
        self.bundles = folder / "bundles"
        self.bundles.mkdir()
        self.now = time.time

    def offer(self, number: int, **more: Any) -> str:
        model = self.everything()[self.watched].model
        return self.repository.add(version(self.bundles, number, name=model), number, model, **more)

    def everything(self) -> list[Running]:
        """What a start now runs, in the config's order."""
        found = []
        for path in with_slots(self.config, Log("error")).bundles:
            with Bundle.open(Path(path)) as bundle:
                found.append(Running(bundle.manifest.name, bundle.manifest.version, bundle.sha256))
        return found

    def running(self) -> Running:
        """What of it runs that a test is about."""
        return self.everything()[self.watched]

    def request(self) -> CycleRequest:
        first, *others = self.everything()
        return CycleRequest(first, others)

    @property
    def journal(self) -> UpdateFolder:
        """Of what a test is about."""
        return self.folder.of_model(running_now(self.config)[self.watched].model) if self.watched else self.folder

    def turn(self, tries: Callable[[Path], str | None] = lambda _: None) -> str:
        told = self.request()
        cycle = UpdateCycle(
            self.config, self.folder, told.running, tries, now=lambda: self.now(), others=told.others, check_config=tries
        )
        return cycle(None)

    def taken(self) -> None:
        """What is staged proves itself."""
        self.journal.change(lambda j: j.committed())


def offer_shipped(bench: Bench, number: int, model: str) -> str:
    """Sign the way back to what the device was shipped with. Its file is not there: no device fetches it."""
    file = bench.bundles / f"{model.replace(':', '-')}-{number}.shipped"
    file.write_bytes(shipped_file(model, number))
    name = bench.repository.add(file, number, model, kind=SHIPPED)
    for copy in (bench.repository.folder / "targets").glob(f"*.{name}"):
        copy.unlink()
    return name


class ConfigBench(Bench):
    """A device that follows a config; the test is about that. A config's version stands in its last line."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "agent.toml"
        self.path.write_text(self.path.read_text().replace("[updates]\n", '[updates]\nconfig = "kitchen"\n'))
        self.config = load(self.path)

    def offer(self, number: int, **more: Any) -> str:
        file = self.bundles / f"config-kitchen-{number}.toml"
        file.write_text(f"{self.path.read_text()}# {number}\n")
        return self.repository.add(file, number, "config:kitchen", kind="config", **more)

    def running(self) -> Running:
        chosen = choose(self.config, self.path, Log("error"))
        file = chosen or self.path
        last = file.read_text().splitlines()[-1]
        found, _ = running_config(self.config, file)
        assert chosen == self.path or found.version == (int(last[2:]) if last.startswith("# ") else 0)
        return found

    def request(self) -> CycleRequest:
        return CycleRequest(self.everything()[0], [self.running()])

    @property
    def journal(self) -> UpdateFolder:
        return self.folder.of_config("kitchen")


@contextmanager
def served(folder: Path, misbehave: Callable[[Any, bytes], None]) -> Iterator[str]:
    """The folder over HTTP, as a hub has it; `misbehave` sends a bundle's bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = folder / Path(self.path).parent.name / Path(self.path).name
            if "/targets/" in self.path:
                misbehave(self, path.read_bytes())
                return
            content = path.read_bytes() if path.exists() else b""
            self.send_response(200 if path.exists() else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def fetched(bench: Bench, address: str, seconds: float = 2.0) -> Path:
    from edgeloop_agent.updates.download import fetch
    from edgeloop_agent.updates.trust import refresh

    hub = HubClient(address, "x", "", seconds)
    listed = refresh(bench.folder, bench.folder.load(), hub, time.time())
    slot = bench.folder.slot("a")
    fetch(bench.folder, max(listed.offers.values(), key=lambda o: o.version), hub, slot, 0, 256)
    return slot
