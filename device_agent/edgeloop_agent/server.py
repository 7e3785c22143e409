"""The local API: Open Inference Protocol v2 over HTTP, and /metrics. What Triton's and KServe's clients speak."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np

from edgeloop_agent.config import Api
from edgeloop_agent.counts import Counts, Exposition
from edgeloop_agent.logs import Log
from edgeloop_agent.models import Models
from edgeloop_contract import inference
from edgeloop_contract.errors import DataError, DeviceError, EdgeloopError
from edgeloop_contract.manifest import Manifest

INPUT, OUTPUT = "input", "scores"
NUMBERS = {"uint8": "UINT8", "int8": "INT8", "int16": "INT16", "float32": "FP32"}
MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/config|/stats|/infer)?")
JSON = "application/json"


class Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves in threads of its own, `connections` at most: one more is told to come again."""

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True

    def __init__(self, settings: Api, models: Models, counts: Counts, log: Log, ready: Callable[[], bool]) -> None:
        self.settings, self.models, self.counts, self.log, self.ready = settings, models, counts, log, ready
        self.exposition = Exposition(counts, models)
        self._places = threading.BoundedSemaphore(settings.connections)
        try:
            super().__init__((settings.host, settings.port), Handler)
        except OSError as error:
            raise DeviceError(
                f"api: {settings.host}:{settings.port}: {error.strerror}; choose another port, or api.enabled = false"
            ) from error

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.5}, name="api", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.counts.api_requests["503"] += 1
            try:
                request.settimeout(1)
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                pass
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that broke is not worth a traceback; it was counted or never became a request."""
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.log("error", "api", why=f"{type(error).__name__}: {error}")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.settings.timeout_seconds)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are counted, not logged."""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, made: Callable[[str, bytes], tuple[int, str, bytes, dict[str, str]]]) -> None:
        try:
            body = self._body()
            status, kind, content, headers = made(self.path.partition("?")[0], body)
        except Refusal as refusal:
            status, kind, content, headers = refusal.status, JSON, _error(str(refusal)), {}
        except DataError as error:
            status, kind, content, headers = 400, JSON, _error(str(error)), {}
        except EdgeloopError as error:
            status, kind, content, headers = 503, JSON, _error(str(error)), {}
        except OSError:  # the client left, or was too slow
            self.close_connection = True
            return
        except Exception as error:  # a request must not take the agent with it, whatever it holds
            self.server.log("error", "api", path=self.path[:200], why=f"{type(error).__name__}: {error}")
            status, kind, content, headers = 500, JSON, _error(f"{type(error).__name__}: {error}"), {}
        self.server.counts.api_requests[str(status)] += 1
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        if status in (413, 411):  # the rest of the body was not read
            self.close_connection = True
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length")
        if self.headers.get("Transfer-Encoding"):
            raise Refusal(411, "send Content-Length; chunked bodies are not read")
        if length is None:
            return b""
        if not length.isdigit():
            raise Refusal(411, f"Content-Length {length[:50]!r} is no number")
        if int(length) > self.server.settings.max_body_bytes:
            raise Refusal(413, f"a body of {length} bytes; at most {self.server.settings.max_body_bytes} are read")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client left")
        return body

    def _get(self, path: str, _: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        if path == "/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", _metrics(self.server.exposition), {}
        if path == "/v2":
            return _json({"name": "edgeloop-agent", "version": version("edgeloop"), "extensions": ["binary_tensor_data"]})
        if path == "/v2/health/live":
            return 200, JSON, b"", {}
        if path == "/v2/health/ready":
            return (200 if self.server.ready() else 503), JSON, b"", {}
        name, manifest, what = self._model(path)
        if what == "/ready":
            return (200 if self.server.ready() else 503), JSON, b"", {}
        if what == "/config":
            return _json(config_of(name, manifest, self.server.settings.max_batch))
        if what == "/stats":
            return _json({"model_stats": [self._stats(name, manifest)]})
        if what:
            raise Refusal(405, f"{path}: send it with POST")
        return _json(metadata_of(name, manifest))

    def _post(self, path: str, body: bytes) -> tuple[int, str, bytes, dict[str, str]]:
        if path == "/v2/repository/index":
            rows = self.server.models.manifests.items()
            return _json([{"name": n, "version": str(m.version), "state": "READY", "reason": ""} for n, m in rows])
        name, manifest, what = self._model(path)
        if what != "/infer":
            raise Refusal(404, f"{path}: nothing to send there")
        length = self.headers.get(inference.HEADER_LENGTH)
        if length is not None and not length.isdigit():
            raise DataError(f"{inference.HEADER_LENGTH} {length[:50]!r} is no number")
        request = inference.decode(body, None if length is None else int(length))
        scores = self._scores(name, request)
        content, json_length = inference.encode(name, str(manifest.version), request, {OUTPUT: scores})
        if json_length is None:
            return 200, JSON, content, {}
        return 200, "application/octet-stream", content, {inference.HEADER_LENGTH: str(json_length)}

    def _scores(self, name: str, request: inference.Request) -> Any:
        if list(request.inputs) != [INPUT]:
            raise DataError(f"inputs {', '.join(request.inputs) or 'none'}; {name} takes one, called {INPUT!r}")
        samples, most = request.inputs[INPUT], self.server.settings.max_batch
        if not 1 <= len(samples) <= most if samples.ndim else True:
            raise DataError(f"a batch of {len(samples) if samples.ndim else 'no dimension'}; send 1 to {most} samples")
        model = self.server.models.get(name)
        checked = model.checked(samples)
        if checked.dtype.kind == "f" and not np.isfinite(checked).all():
            raise DataError("the input has NaN or infinite values")
        return np.concatenate([model.scores(checked[i : i + 1]) for i in range(len(checked))])

    def _model(self, path: str) -> tuple[str, Manifest, str]:
        found = MODEL.fullmatch(path)
        if not found:
            raise Refusal(404, f"{path[:200]}: no such address")
        name = unquote(found[1])
        manifest = self.server.models.manifests.get(name)
        if manifest is None:
            raise Refusal(404, f"no model {name[:100]!r}; there is {', '.join(self.server.models.manifests)}")
        if found[2] not in (None, str(manifest.version)):
            raise Refusal(404, f"model {name} has version {manifest.version} here")
        return name, manifest, found[3] or ""

    def _stats(self, name: str, manifest: Manifest) -> dict[str, Any]:
        latency = self.server.counts.latency_of(name)
        count, nanoseconds = sum(latency.counts), int(latency.total * 1e9)
        return {
            "name": name, "version": str(manifest.version), "inference_count": count, "execution_count": count,
            "inference_stats": {"success": {"count": count, "ns": nanoseconds}},
        }  # fmt: skip


def metadata_of(name: str, manifest: Manifest) -> dict[str, Any]:
    """Names, types and shapes of the tensors; -1 is the batch."""
    output = manifest.variants[0].output
    return {
        "name": name,
        "versions": [str(manifest.version)],
        "platform": "edgeloop",
        "inputs": [{"name": INPUT, "datatype": NUMBERS[manifest.sample.dtype], "shape": [-1, *manifest.sample.shape]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, *output.shape]}],
    }


def config_of(name: str, manifest: Manifest, max_batch: int) -> dict[str, Any]:
    """What Triton's clients ask for beside the metadata."""
    known = metadata_of(name, manifest)
    sides = {
        side: [{"name": t["name"], "data_type": f"TYPE_{t['datatype']}", "dims": t["shape"][1:]} for t in known[f"{side}s"]]
        for side in ("input", "output")
    }
    return {"name": name, "platform": "edgeloop", "max_batch_size": max_batch, **sides}


def _metrics(exposition: Exposition) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(exposition)
    return bytes(generate_latest(registry))


def _json(value: object) -> tuple[int, str, bytes, dict[str, str]]:
    return 200, JSON, msgspec.json.encode(value), {}


def _error(text: str) -> bytes:
    return msgspec.json.encode({"error": text})
