"""What hubs and agents of earlier versions did (tests/goldens/hubs, made by scripts/record_hubs.py), and a server that answers as they did."""

from __future__ import annotations

import base64
import gzip
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from commands import HERE

FOLDER = HERE / "goldens" / "hubs"
NAMES = sorted(path.name.removesuffix(".sql.gz") for path in FOLDER.glob("*.sql.gz"))
Rows = dict[str, list[dict[str, object]]]


class Exchange(msgspec.Struct):
    """A request of the agent and the hub's answer; bodies in base64, None for a bundle's bytes."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | None
    status: int
    answer_headers: dict[str, str]
    answer: str | None

    @property
    def sent(self) -> bytes:
        return base64.b64decode(self.body or "")

    @property
    def answered(self) -> bytes:
        return base64.b64decode(self.answer or "")


class Recorded(msgspec.Struct):
    """`at`: when it was recorded, seconds since 1970. `token`: of the workstation. `target`: of the rollout."""

    name: str
    at: float
    token: str
    target: str
    exchanges: list[Exchange]


def recorded(name: str) -> Recorded:
    return msgspec.json.decode(gzip.decompress((FOLDER / f"{name}.json.gz").read_bytes()), type=Recorded)


def restored(name: str, folder: Path) -> Path:
    """The hub's database of that version, in a hub's data folder. The only table that was empty then gets a row too."""
    path = folder / "data" / "hub.sqlite"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database:
        database.executescript(gzip.decompress((FOLDER / f"{name}.sql.gz").read_bytes()).decode())
        first = "SELECT target FROM bundles WHERE version = 1"
        database.execute(f"INSERT INTO released (channel, model, target) VALUES ('stable', 'exercise_watch', ({first}))")
        database.commit()
    return path


def rows_of(path: Path) -> Rows:
    """Every row of every table."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = [str(row[0]) for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: [dict(row) for row in database.execute(f'SELECT * FROM "{table}"')] for table in tables}


@contextmanager
def answering(known: Recorded, bundle: bytes) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """A server that answers as the hub of that version did, and what it was asked. What that version did not know is 404."""
    asked: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            asked.append((self.command, self.path, body))
            found = next((e for e in known.exchanges if (e.method, e.path) == (self.command, self.path)), None)
            content = b'{"detail":"Not Found"}' if found is None else bundle if found.answer is None else found.answered
            self.send_response(404 if found is None else found.status)
            for name, value in ({} if found is None else found.answer_headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
