"""The agent's local API against the barest server of the same model."""

from __future__ import annotations

import http.server
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import Row
from serving import GOLDEN, serving


def parts_of(bundle: Path, variant: str) -> tuple[Any, bytes, Any]:
    """The variant, its file, and the canary's inputs."""
    from edgeloop_contract.archive import Bundle

    with Bundle.open(bundle) as opened:
        found = opened.manifest.variant(variant)
        return found, opened.read(found.file), opened.array(opened.manifest.canary.input)


class Barest(http.server.BaseHTTPRequestHandler):
    """The same model behind the least that answers a POST."""

    protocol_version = "HTTP/1.1"
    call: Callable[[Any], Any]
    shape: tuple[int, ...]
    dtype: Any
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        scores = type(self).call(np.frombuffer(data, self.dtype).reshape(self.shape)).tobytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(scores)))
        self.end_headers()
        self.wfile.write(scores)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def api(quick: bool) -> Iterator[Row]:
    """One client, one connection, batch 1: requests a second and p99."""
    described, model, inputs = parts_of(GOLDEN, "tflite-int8")
    from edgeloop_agent.runtimes import open_runtime

    Barest.call, Barest.shape, Barest.dtype = open_runtime(described, model).run, (1, *inputs.shape[1:]), inputs.dtype
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Barest)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sample = np.ascontiguousarray(inputs[:1]).tobytes()
    tensor = {
        "name": "input",
        "shape": [1, *inputs.shape[1:]],
        "datatype": "INT16",
        "parameters": {"binary_data_size": len(sample)},
    }
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as agent:
        port = int(agent.address.rsplit(":", 1)[1])
        header = {"Inference-Header-Content-Length": str(len(text))}
        sides = [
            (port, "/v2/models/exercise_watch/infer", text + sample, header),
            (server.server_port, "/", sample, {}),
        ]
        found = [timed_requests(*side, seconds=2 if quick else 10) for side in sides]
    server.shutdown()
    (ours, our_p99), (theirs, their_p99) = found
    yield Row("local API: requests a second, against the barest server", ours, "/s", theirs, round(ours / theirs, 2))
    yield Row("local API: p99", our_p99, "µs", their_p99, round(their_p99 / our_p99, 2))


def timed_requests(port: int, path: str, body: bytes, headers: dict[str, str], seconds: float) -> tuple[float, float]:
    import http.client

    connection, taken = http.client.HTTPConnection("127.0.0.1", port), []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        answer.read()
        taken.append(time.perf_counter() - start)
    return len(taken) / sum(taken), 1e6 * float(np.percentile(taken, 99))
