"""Records what hubs and agents of earlier versions did, from the repository's history.

    python scripts/record_hubs.py tests/goldens/hubs [NAME...]

Each version's own hub, workstation and agent run against each other: a bundle is published and rolled out, a device takes it and
sends samples, a person labels one, somebody signs in, a job waits, an upload is half done. Kept are the requests of the agent with
the hub's answers, and the hub's database.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
# The last version with each schema of the hub's database, and the last one before the newest tables.
VERSIONS = {
    "0001": "1d8eabd",
    "0002": "4a526c7^",
    "0003": "2c5600d^",
    "0004": "19390f1^",
    "0005": "899cd9f^",
    "0005-alerts": "cd34cdf^",
}
PARTS = ("contract", "device_agent", "exporters", "hub", "pipeline", "models", "library")
RUN = """
import sys, importlib
module = importlib.import_module(sys.argv[1])
call = next(getattr(module, name) for name in ("run_command", "main") if hasattr(module, name))
sys.argv = sys.argv[2:]
sys.exit(call())
"""
SECOND = """
import sys; from pathlib import Path; import msgspec
from edgeloop_contract import archive; from edgeloop_contract.archive import Bundle
with Bundle.open(Path(sys.argv[1])) as bundle:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    archive.write(Path(sys.argv[2]), msgspec.structs.replace(bundle.manifest, version=2), files)
"""
MODULES = {"hub": "edgeloop_hub.cli", "workstation": "edgeloop_pipeline.__main__", "agent": "edgeloop_agent.cli"}
KEPT_HEADERS = {"authorization", "content-type", "if-none-match", "range", "edgeloop-reads", "etag", "content-range"}
MAX_BODY = 60_000  # a bundle's bytes are not kept


class Version:
    """One version's code in a folder, and the machine that it runs on."""

    def __init__(self, commit: str, folder: Path) -> None:
        self.folder, self.code = folder, folder / "code"
        packed = subprocess.run(("git", "-C", str(HERE), "archive", commit), capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(self.code, filter="data")
        paths = os.pathsep.join(str(self.code / part) for part in PARTS)
        self.environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore", "HOME": str(folder)}

    def words(self, who: str, *words: object) -> list[str]:
        data = ("--data", self.folder / "data") if who == "hub" else ()
        return [sys.executable, "-c", RUN, MODULES[who], who, *map(str, (*data, *words))]

    def run(self, who: str, *words: object, told: str | None = None) -> str:
        done = subprocess.run(
            self.words(who, *words), env=self.environment, cwd=self.folder, capture_output=True, text=True, input=told, check=False
        )
        if done.returncode:
            raise SystemExit(f"{self.folder.name}: {who} {words}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def running(self, who: str, *words: object) -> Iterator[None]:
        with (self.folder / f"{who}.log").open("wb") as log:
            process = subprocess.Popen(self.words(who, *words), env=self.environment, cwd=self.folder, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.terminate()
                process.wait(30)


class Recorder:
    """Passes requests on to the hub, and keeps each different one with its answer."""

    def __init__(self, port: int) -> None:
        self.exchanges: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                hub = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                hub.request(self.command, self.path, body or None, dict(self.headers.items()))
                answer = hub.getresponse()
                content = answer.read()
                outer.keep(self, body, answer, content)
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                hub.close()

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def keep(self, asked: BaseHTTPRequestHandler, body: bytes, answer: http.client.HTTPResponse, content: bytes) -> None:
        exchange = {
            "method": asked.command, "path": asked.path, "headers": _kept(asked.headers.items()), "body": _text(body),
            "status": answer.status, "answer_headers": _kept(answer.getheaders()), "answer": _text(content),
        }  # fmt: skip
        if exchange not in self.exchanges:
            self.exchanges.append(exchange)


def _kept(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers if name.lower() in KEPT_HEADERS}


def _text(content: bytes) -> str | None:
    """In base64; None for a bundle's bytes."""
    return base64.b64encode(content).decode() if len(content) <= MAX_BODY else None


def _free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def _wait(what: Any, log: Path | None = None, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if what():
                return
        time.sleep(0.2)
    raise SystemExit(f"it did not happen in time{log.read_text()[-2000:] if log else ''}")


def _ask(address: str, token: str, path: str, body: Any = None, raw: bytes | None = None, method: str = "POST") -> Any:
    content = raw if raw is not None else None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream" if raw else "application/json"}
    request = urllib.request.Request(address + path, content, headers, method=method if content is not None else "GET")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def record(name: str, out: Path, folder: Path) -> None:
    version, port = Version(VERSIONS[name], folder), _free_port()
    goldens = version.code / "tests" / "goldens"
    golden = max(goldens.glob("*/exercise_watch-1.edgeloop"))
    shutil.copy(golden, folder / "exercise_watch-1.edgeloop")
    second = folder / "exercise_watch-2.edgeloop"
    words = [sys.executable, "-c", SECOND, str(folder / "exercise_watch-1.edgeloop"), str(second)]
    subprocess.run(words, env=version.environment, check=True)
    address, recorder = f"http://127.0.0.1:{port}", Recorder(port)
    token = version.run("hub", "token", "api", "workstation")
    version.environment |= {"EDGELOOP_HUB": address, "EDGELOOP_HUB_TOKEN": token}
    with version.running("hub", "serve", "--port", port):
        _wait(lambda: socket.create_connection(("127.0.0.1", port)).close() is None)
        version.run("hub", "user", "add", "ada", "--password-stdin", told="correct horse battery\n")
        _people(address)
        version.run("workstation", "keys", "init")
        version.run("workstation", "publish", folder / "exercise_watch-1.edgeloop")
        target = version.run("workstation", "publish", second).split(":")[0]
        version.run("workstation", "rollout", "start", target, "--steps", "label:pilot, 100%")
        _device(version, recorder, name)
        _ask(address, token, "/api/v1/jobs", {"device": "pi-1", "target": target})
        _ask(address, token, f"/api/v1/uploads/{'ab' * 32}/0", raw=b"half of a bundle", method="PUT")
        version.run("hub", "tick")
        if name > "0005":
            marks = {"tags": {"tags": ["kitchen"]}, "note": {"text": "beside the door"}, "pin": {"target": target}}
            for what, body in marks.items():
                _ask(address, token, f"/api/v1/devices/pi-1/{what}", body, method="PUT")
        if name > "0001":
            _label(address, token)
    database = sqlite3.connect(folder / "data" / "hub.sqlite")
    text = "\n".join(database.iterdump())
    database.close()
    out.mkdir(parents=True, exist_ok=True)
    recorder.server.shutdown()
    made = {"name": name, "at": time.time(), "token": token, "target": target, "exchanges": recorder.exchanges}
    for suffix, content in (("sql", text), ("json", json.dumps(made))):
        (out / f"{name}.{suffix}.gz").write_bytes(gzip.compress(content.encode(), 9, mtime=0))
    print(name, len(recorder.exchanges), "exchanges", len(text), "characters of SQL")


def _people(address: str) -> None:
    """One who signs in, and one who tries a wrong password."""
    for password in ("correct horse battery", "wrong"):
        form = urllib.parse.urlencode({"name": "ada", "password": password}).encode()
        request = urllib.request.Request(f"{address}/sign-in", form, {"Origin": address})
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.build_opener(_Stay).open(request, timeout=30).close()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _device(version: Version, recorder: Recorder, name: str) -> None:
    """It takes the rollout, and sends samples where its version does."""
    folder = version.folder
    samples = '[samples]\nsend = "samples"\nrandom_share = 0.2\nuncertain_share = 0.0\n' if name > "0001" else ""
    (folder / "in").mkdir()
    (folder / "agent.toml").write_text(
        f"""bundles = ["exercise_watch-1.edgeloop"]
state = "state"
[source]
kind = "watch"
where = "in"
poll_seconds = 0.1
[output]
where = "answers.jsonl"
[runtime]
variant = "tflite-int8"
[api]
port = 0
[updates]
hub = "http://127.0.0.1:{recorder.server.server_port}"
poll_seconds = 1
health_seconds = 1
{samples}"""
    )
    once = version.run("hub", "token", "enrol", "pi-1", "--label", "pilot")
    version.run("agent", "enrol", "agent.toml", "--name", "pi-1", "--token", once)
    log = folder / "agent.log"
    with version.running("agent", "serve", "agent.toml"):
        _wait(lambda: " ready " in log.read_text(), log)
        shutil.copy(HERE / "tests" / "goldens" / "v0.1" / "recording.csv", folder / "in" / "a.csv")
        _wait(lambda: any(said in log.read_text() for said in ("update committed", "update taken")), log)
        if name > "0001":
            _wait(lambda: any(e["path"] == "/api/v1/outbox" for e in recorder.exchanges), log)
        time.sleep(4)


def _label(address: str, token: str) -> None:
    samples = _ask(address, token, "/api/v1/samples")
    rows = samples if isinstance(samples, list) else next(iter(samples.values()))
    first = rows[0]
    label = {"device": first["device"], "key": first["key"], "label": "ROW"}
    for body in ({"labels": [label], "who": "ada"}, {"labels": [{**label, "key": rows[1]["key"], "whole": True}], "who": "ada"}):
        with contextlib.suppress(urllib.error.HTTPError):  # an earlier version knows no labels of whole recordings
            _ask(address, token, "/api/v1/labels", body)


if __name__ == "__main__":
    for version_name in sys.argv[2:] or VERSIONS:
        with tempfile.TemporaryDirectory() as made:
            record(version_name, Path(sys.argv[1]), Path(made))
