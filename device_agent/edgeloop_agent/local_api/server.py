"""The local API: Open Inference Protocol v2 over HTTP, and /metrics. What Triton's and KServe's clients speak."""

from __future__ import annotations

import errno
import math
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any
from urllib.parse import unquote

import msgspec
import numpy as np

from edgeloop_agent.addresses import authority
from edgeloop_agent.config import Api as Settings
from edgeloop_agent.local_api import access, meanings
from edgeloop_agent.local_api.connection import RETRY_AFTER_SECONDS, Refusal, Request, Response
from edgeloop_agent.local_api.exposition import MetricsCollector
from edgeloop_agent.local_api.http import Bounds, Handlers, Server, affordable
from edgeloop_agent.local_api.model_info import (
    Duration,
    InferenceStatistics,
    ModelStatistics,
    Statistics,
    config_of,
    metadata_of,
)
from edgeloop_agent.local_api.page_routes import OPEN_PATHS, PageRoutes
from edgeloop_agent.local_api.page_routes import PATHS as PAGE_PATHS
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts, agent_version, place_kind
from edgeloop_agent.models import Models
from edgeloop_agent.page.live_view import LiveView
from edgeloop_agent.runtimes.named import Memory
from edgeloop_agent.served_model import Model
from edgeloop_contract import inference
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, DeviceError, EdgeloopError
from edgeloop_contract.manifest import SCORES, Manifest
from edgeloop_contract.preprocessing import takes_texts
from edgeloop_contract.preprocessing.tokens import MAX_TEXT_BYTES
from edgeloop_contract.tasks import Detection, Segmentation, Tensors

MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/config|/stats|/infer)?")
READ_METHODS, SEND_METHODS = ("GET", "HEAD"), ("POST",)
FIXED_PATHS = dict.fromkeys(
    ("/metrics", "/split", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/health/source"), READ_METHODS
) | {"/v2/repository/index": SEND_METHODS}
OPEN_TO_ALL = OPEN_PATHS | {"/v2/health/live", "/v2/health/ready", "/v2/health/source"}  # without a token
EXTENSIONS = ["binary_tensor_data", *meanings.EXTENSIONS]  # a request with such a parameter gets what its outputs mean too
HEALTH_PATHS = frozenset(("/metrics", "/v2/health/live", "/v2/health/ready", "/v2/health/source"))
VALUE_BYTES, REQUEST_BYTES = 64, 64 << 10  # of one number in JSON, its white space included; of all that is not a number
LARGE_BODY_BYTES = 4 << 20  # bodies of which one is decoded at a time: numbers take several times the room of their text


class Api:
    """What the API answers, over the models."""

    def __init__(self, settings: Settings, models: Models, counts: Counts, log: Log, ready: Callable[[], bool]) -> None:
        self.settings, self.models, self.counts, self.log, self.ready = settings, models, counts, log, ready
        self.collector = MetricsCollector(counts, models)
        self.door = access.Door(settings)
        self.view = LiveView(models, counts, log, max(1, settings.connections // 2)) if settings.page else None
        self.page = PageRoutes(self.view, self.door) if self.view is not None else None
        self._large_bodies = threading.Lock()

    def serve(self) -> Server:
        """Start the server. Raises DeviceError when the address is not available."""
        where = self.settings
        connections = affordable(where.connections)
        if connections < where.connections:
            self.log("warning", "fewer connections to the API: the limit of open files is low (ulimit -n)", connections=connections)
        bounds = Bounds(where.max_body_bytes, connections, where.timeout_seconds)
        answers = Handlers(self.admit, self.answer, _render_refusal, HEALTH_PATHS.__contains__, self._count)
        try:
            server = Server((where.host, where.port), bounds, answers)
        except OSError as error:
            remedy = "choose another port, or api.enabled = false"
            if error.errno == errno.EADDRNOTAVAIL:
                remedy = 'this machine has no such address: set api.host, to "::1" where there is IPv6 alone'
            raise DeviceError(f"api: {authority(where.host, where.port)}: {error.strerror or error}; {remedy}") from error
        server.start()
        return server

    def _count(self, status: int) -> None:
        self.counts.api_requests[str(status)] += 1

    def admit(self, request: Request) -> int:
        """Bytes that the request's body may have. Raises Refusal for a caller, path or method that is not allowed."""
        access.check(request.headers, [self.settings.host, *self.settings.names])
        allowed = FIXED_PATHS.get(request.path) or (PAGE_PATHS.get(request.path) if self.page is not None else None)
        manifest = None
        if request.path not in OPEN_TO_ALL or (request.path in PAGE_PATHS and self.page is None):
            self.door.check(request)
        if allowed is None:
            _, manifest, what = self._model(request.path)
            allowed = SEND_METHODS if what == "/infer" else READ_METHODS
        if request.method not in allowed:
            parameters = f"{request.path[:200]}: {request.method} is not for it; use {' or '.join(allowed)}"
            raise Refusal(405, parameters, headers={"Allow": ", ".join(allowed)})
        if manifest is None or allowed is not SEND_METHODS:
            return REQUEST_BYTES
        texts = MAX_TEXT_BYTES if any(takes_texts(entry.preprocessing) for entry in manifest.inputs) else 0
        values = sum(math.prod(entry.sample.shape) for entry in manifest.inputs)
        return REQUEST_BYTES + self.settings.max_batch * (VALUE_BYTES * values + texts)

    def answer(self, request: Request) -> Response:
        """The response to a request. Raises Refusal for every error."""
        try:
            if self.page is not None and request.path in PAGE_PATHS:
                return self.page.answer(request)
            return self._post(request) if request.method == "POST" else self._get(request.path)
        except DataError as error:
            raise Refusal(400, str(error)) from error
        except EdgeloopError as error:
            raise Refusal(503, str(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)}) from error
        except (Refusal, OSError):
            raise
        except Exception as error:  # no request may end the agent
            self.log("error", "api", path=request.path[:200], why=f"{type(error).__name__}: {error}")
            raise Refusal(500, f"{type(error).__name__}: {error}") from error

    def _get(self, path: str) -> Response:
        if path == "/metrics":
            return Response(_metrics(self.collector), "text/plain; version=0.0.4; charset=utf-8")
        if path == "/split":
            from edgeloop_agent.offload.plan_table import table

            return _json([table(m.router) for m in self.models.pool.values() if m.router is not None])
        if path == "/v2":
            return _json({"name": "edgeloop-agent", "version": agent_version(), "extensions": EXTENSIONS})
        if path == "/v2/health/live":
            return _json({"live": True})
        if path == "/v2/health/ready":
            return self._ready({})
        if path == "/v2/health/source":
            up = not self.counts.source_unavailable
            return Response(msgspec.json.encode({"source": self.models.config.source.kind, "up": up}), status=200 if up else 503)
        name, manifest, what = self._model(path)
        if what == "/ready":
            return self._ready({"name": name})
        if what == "/config":
            return _json(config_of(name, manifest, self.settings.max_batch))
        if what == "/stats":
            return _json(Statistics([self._stats(name, manifest)]))
        return _json(metadata_of(name, manifest))

    def _ready(self, fields: dict[str, str]) -> Response:
        ready = self.ready()
        again = {} if ready else {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return Response(msgspec.json.encode({**fields, "ready": ready}), status=200 if ready else 503, headers=again)

    def _post(self, asked: Request) -> Response:
        if asked.path == "/v2/repository/index":
            rows = [(name, str(m.version), "READY", "") for name, m in self.models.manifests.items()]
            rows += [(path.stem, "", "UNAVAILABLE", str(error)) for path, error in self.models.refused.items()]
            return _json([dict(zip(("name", "version", "state", "reason"), row, strict=True)) for row in rows])
        name, manifest, _ = self._model(asked.path)
        length = asked.headers.get(inference.HEADER_LENGTH.lower())
        if length is not None and not (length.isascii() and length.isdigit()):
            raise DataError(f"{inference.HEADER_LENGTH} {length[:50]!r} is not a number")
        most = min(self.settings.max_body_bytes, self.admit(asked))
        with self._large_bodies if len(asked.body) > LARGE_BODY_BYTES or "content-encoding" in asked.headers else nullcontext():
            body = access.unpacked(asked.body, asked.headers.get("content-encoding", ""), most)
            texts = any(takes_texts(entry.preprocessing) for entry in manifest.inputs)
            request = inference.decode_request(body, None if length is None else int(length[:18]), texts)
            del body
        if isinstance(asked.body, bytearray):
            with suppress(BufferError):  # tensors in binary are a view of it; numbers in words are arrays of their own now
                asked.body.clear()
        asked_for = meanings.asked_for(request.parameters)
        outputs, places = self._outputs(name, request)
        parameters: dict[str, Any] = {"place": ", ".join(sorted(places))} if any(places) else {}
        parameters |= meanings.meanings(asked_for, manifest, outputs)
        content, json_length = inference.encode_response(name, str(manifest.version), request, outputs, parameters or None)
        if json_length is None:
            return Response(content)
        return Response(content, "application/octet-stream", headers={inference.HEADER_LENGTH: str(json_length)})

    def _outputs(self, name: str, request: inference.Request) -> tuple[dict[str, Array], set[str]]:
        """Outputs of the batch by name, and the places where they were computed."""
        model, most = self.models.get(name), self.settings.max_batch
        names = [entry.name for entry in model.manifest.inputs]
        if sorted(request.inputs) != sorted(names):
            wanted = f"one, called {names[0]!r}" if len(names) == 1 else ", ".join(names)
            raise DataError(f"inputs {', '.join(request.inputs) or 'none'}; {name} takes {wanted}")
        counts = {len(values) if values.ndim else 0 for values in request.inputs.values()}
        if len(counts) != 1 or not 1 <= min(counts) <= most:
            raise DataError(f"a batch of {', '.join(map(str, sorted(counts)))}; send 1 to {most} samples, of each input as many")
        if model.variant.kept_inside and self.models.config.source.kind != "none":
            raise Refusal(409, f"{name} keeps its state inside its runtime, for the source alone: serve it without a source")
        given = {
            name: model.samples_of_texts(values.tolist(), name) if values.dtype == object else values
            for name, values in request.inputs.items()
        }
        checked = {e.name: model.checked(given[e.name], e.sample) for e in model.manifest.inputs}
        if any(values.dtype.kind == "f" and not all(np.isfinite(row).all() for row in values) for values in checked.values()):
            raise DataError("the input has NaN or infinite values")
        outputs, places = (self._scores if model.is_simple else self._tensors)(model, checked)
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise Refusal(500, f"{name} answered with NaN or infinity")
        return outputs, places

    def _scores(self, model: Model, samples: Mapping[str, Array]) -> tuple[dict[str, Array], set[str]]:
        (checked,) = samples.values()
        results = [model.scored(checked[i : i + 1]) for i in range(len(checked))]
        for scored in results:
            if scored.place:
                self.counts.places[place_kind(scored.place)] += 1
        scores = np.concatenate([scored.scores for scored in results])
        return {model.variant.output.name or SCORES: scores}, {scored.place for scored in results}

    def _tensors(self, model: Model, samples: Mapping[str, Array]) -> tuple[dict[str, Array], set[str]]:
        """Rows of a request are windows of one recording: state begins anew with each request."""
        memory: Memory = {}
        count = len(next(iter(samples.values())))
        rows = [model.outputs({name: values[i : i + 1] for name, values in samples.items()}, memory) for i in range(count)]
        wanted = (
            rows[0]
            if isinstance(model.manifest.task, Tensors | Detection | Segmentation)
            else [model.variant.output.name or SCORES]
        )
        return {name: np.concatenate([row[name] for row in rows]) for name in wanted}, {""}

    def _model(self, path: str) -> tuple[str, Manifest, str]:
        match = MODEL.fullmatch(path)
        if not match:
            raise Refusal(404, f"{path[:200]}: no such path")
        name = unquote(match[1])
        manifest = self.models.manifests.get(name)
        if manifest is None:
            refused = "".join(f"; not served: {error}" for error in self.models.refused.values())
            raise Refusal(404, f"no model {name[:100]!r}; there is {', '.join(self.models.manifests)}{refused}")
        if match[2] not in (None, str(manifest.version)):
            raise Refusal(404, f"model {name} has version {manifest.version} here")
        return name, manifest, match[3] or ""

    def _stats(self, name: str, manifest: Manifest) -> ModelStatistics:
        latency = self.counts.latency_of(name)
        count, nanoseconds = sum(latency.counts), int(latency.total * 1e9)
        return ModelStatistics(name, str(manifest.version), count, count, InferenceStatistics(Duration(count, nanoseconds)))


def _metrics(collector: MetricsCollector) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return bytes(generate_latest(registry))


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value))


def _render_refusal(refusal: Refusal) -> Response:
    return Response(msgspec.json.encode({"error": str(refusal)}), status=refusal.status, headers=refusal.headers)
