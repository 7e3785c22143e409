"""A small HTTP proxy: it knows names that nobody else knows, asks for a password, and remembers what it was asked."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy:
    """`names`: the port on this machine behind each name. `password`: NAME:PASSWORD, or "" for none."""

    def __init__(self, names: Mapping[str, int], password: str = "") -> None:
        self.names, self.password, self.asked = names, password, list[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.forward(self)

            do_POST = do_GET

            def do_CONNECT(self) -> None:
                outer.tunnel(self)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://{self.password}{'@' * bool(self.password)}127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _admits(self, asked: BaseHTTPRequestHandler) -> bool:
        self.asked.append(f"{asked.command} {asked.path}")
        wanted = "Basic " + base64.b64encode(self.password.encode()).decode()
        if not self.password or asked.headers.get("Proxy-Authorization") == wanted:
            return True
        asked.close_connection = True
        asked.send_response(407)
        asked.send_header("Proxy-Authenticate", 'Basic realm="proxy"')
        asked.send_header("Content-Length", "0")
        asked.end_headers()
        return False

    def forward(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers.get("Content-Length", "0")))
        if not self._admits(asked):
            return
        where = urlsplit(asked.path)
        other = http.client.HTTPConnection("127.0.0.1", self.names[where.hostname or ""], timeout=20)
        headers = {name: value for name, value in asked.headers.items() if not name.lower().startswith("proxy-")}
        other.request(asked.command, where.path + ("?" + where.query) * bool(where.query), body or None, headers)
        answer = other.getresponse()
        content = answer.read()
        other.close()
        asked.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                asked.send_header(name, value)
        asked.send_header("Content-Length", str(len(content)))
        asked.end_headers()
        asked.wfile.write(content)

    def tunnel(self, asked: BaseHTTPRequestHandler) -> None:
        if not self._admits(asked):
            return
        asked.close_connection = True
        with socket.create_connection(("127.0.0.1", self.names[asked.path.partition(":")[0]]), timeout=20) as other:
            asked.send_response(200)
            asked.end_headers()
            ends = {asked.connection: other, other: asked.connection}
            while True:
                for end in select.select(list(ends), [], [], 20)[0]:
                    if not (chunk := end.recv(1 << 16)):
                        return
                    ends[end].sendall(chunk)


@contextmanager
def proxying(names: Mapping[str, int], password: str = "") -> Iterator[Proxy]:
    proxy = Proxy(names, password)
    try:
        yield proxy
    finally:
        proxy.close()
