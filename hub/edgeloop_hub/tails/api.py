"""Open Inference Protocol v2 over the tails: what the agent's own server and Triton speak as well."""

from __future__ import annotations

import asyncio
import math
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotAuthorizedException, NotFoundException, TooManyRequestsException

from edgeloop_contract import inference, splitting
from edgeloop_contract.errors import DataError, EdgeloopError
from edgeloop_hub.auth import accounts
from edgeloop_hub.auth.guards import bearer
from edgeloop_hub.http.error_responses import documents_errors
from edgeloop_hub.settings import Settings
from edgeloop_hub.tails.batching import Busy
from edgeloop_hub.tails.loading import OUTPUT_TENSOR, Tail, Tails

NUMBERS = {"uint8": "UINT8", "int8": "INT8", "int16": "INT16", "float32": "FP32"}
KNOWN_SECONDS = 30.0  # that a credential is believed before the database is asked again
MAX_KNOWN = 100_000
WORTH_DEFLATING_BYTES = 512
Sent = Request[Any, Any, Any]


@dataclass
class _Client:
    name: str
    until: float
    left: float  # requests of the quota
    at: float


class TailService:
    """One worker's tails, and who may ask how much."""

    def __init__(self, hub: Any) -> None:
        self.settings: Settings = hub.settings
        self._database = hub.database
        self._pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2), "tail")
        self._loader = ThreadPoolExecutor(2, "tail-loader")
        self.tails = Tails(hub.database, hub.blobs, hub.settings, self._pool)
        self._known: dict[str, _Client] = {}
        self._checked = 0.0

    async def admit(self, request: Sent) -> None:
        """Raises NotAuthorizedException for a stranger, TooManyRequestsException for who asks too often."""
        credential, now = bearer(request), time.monotonic()
        client = self._known.get(credential)
        if client is None or client.until < now:
            name = await self._in_loader(partial(self._who, credential))
            if name is None:
                self._known.pop(credential, None)
                raise NotAuthorizedException("no such device credential")
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            left, at = (client.left, client.at) if client else (float(self.settings.tail_burst), now)
            client = self._known[credential] = _Client(name, now + KNOWN_SECONDS, left, at)
        client.left = min(self.settings.tail_burst, client.left + (now - client.at) * self.settings.tail_requests_per_second)
        client.at = now
        if client.left < 1:
            wait = (1 - client.left) / self.settings.tail_requests_per_second
            raise TooManyRequestsException("this device asks too often", headers={"Retry-After": str(math.ceil(wait))})
        client.left -= 1

    def _who(self, credential: str) -> str | None:
        with self._database.reading() as database:
            device = accounts.device_of(database, credential)
            if device is not None:
                return device.name
            token = accounts.token_of(database, credential)
            return "workstation" if token is not None and token.may("tails") else None

    async def tail(self, name: str) -> Tail:
        """Raises NotFoundException."""
        if time.monotonic() - self._checked > KNOWN_SECONDS:
            self._checked = time.monotonic()
            await self._in_loader(self.tails.forget_withdrawn)
        found = self.tails.held(name)
        if found is not None:
            return found
        try:
            loaded: Tail = await self._in_loader(partial(self.tails.get, name))
        except EdgeloopError as error:
            raise NotFoundException(str(error)) from error
        return loaded

    async def rows(self, tail: Tail, inputs: dict[str, Any]) -> Any:
        """What is to be computed; a file is unpacked where the others are not held up. Raises DataError."""
        if tail.tensor in inputs:
            return tail.rows(inputs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, tail.rows, inputs)

    async def _in_loader(self, action: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._loader, action)


@documents_errors(400, 401, 429, 503)
class TailServer(Controller):
    """For devices (and any client of the protocol that has a token)."""

    path = "/v2"
    tags = ["tails"]

    @get("/")
    async def server(self) -> dict[str, Any]:
        """Who answers here, and what it understands."""
        extensions = ["binary_tensor_data", *(f"{splitting.EXTENSION}{coding}" for coding in splitting.server_codings())]
        return {"name": "edgeloop-hub", "version": version("edgeloop"), "extensions": extensions}

    @get("/health/live")
    async def live(self) -> dict[str, bool]:
        """It runs."""
        return {"live": True}

    @get("/health/ready")
    async def ready(self) -> dict[str, bool]:
        """It answers: what a device measures the round trip with."""
        return {"ready": True}

    @get("/models/{model:str}")
    async def metadata(self, model: str, request: Sent, state: State) -> dict[str, Any]:
        """Names, types and shapes of a tail's tensors; -1 is the batch."""
        service: TailService = state.service
        await service.admit(request)
        tail = await service.tail(model)
        boundary, output = tail.boundary, tail.output
        return {
            "name": tail.name, "versions": [tail.version], "platform": "edgeloop",
            "inputs": [{"name": tail.tensor, "datatype": NUMBERS[boundary.dtype], "shape": [-1, *boundary.shape]}],
            "outputs": [{"name": OUTPUT_TENSOR, "datatype": "FP32", "shape": [-1, *output.shape]}],
        }  # fmt: skip

    @get("/models/{model:str}/ready")
    async def model_ready(self, model: str, request: Sent, state: State) -> dict[str, Any]:
        """The tail is loaded when this returns."""
        service: TailService = state.service
        await service.admit(request)
        return {"name": (await service.tail(model)).name, "ready": True}

    @get("/models/{model:str}/stats")
    async def stats(self, model: str, request: Sent, state: State) -> dict[str, Any]:
        """Requests and batches of this worker, and what waits now."""
        service: TailService = state.service
        await service.admit(request)
        tail = await service.tail(model)
        batcher = tail.batcher
        row = {
            "name": tail.name, "version": tail.version, "inference_count": batcher.requests, "execution_count": batcher.batches,
            "waiting_rows": batcher.waiting, "row_us": round(batcher.row_seconds * 1e6, 1),
        }  # fmt: skip
        return {"model_stats": [row]}

    @post(
        ["/models/{model:str}/infer", "/models/{model:str}/versions/{number:str}/infer"],
        status_code=200,
    )
    async def infer(self, model: str, request: Sent, state: State) -> Response[bytes]:
        """Scores of one or more boundaries. `timeout` (parameter, µs): how long anyone will wait for them."""
        service: TailService = state.service
        await service.admit(request)
        asked = _decoded(request, await request.body(), service.settings.max_part_bytes)
        tail = await service.tail(model)
        rows = await service.rows(tail, asked.inputs)
        if len(rows) > service.settings.tail_batch:
            raise DataError(f"a batch of {len(rows)}; send up to {service.settings.tail_batch} rows")
        timeout = asked.parameters.get("timeout")
        seconds = service.settings.tail_wait_seconds
        if isinstance(timeout, int | float) and timeout > 0:
            seconds = min(seconds, timeout / 1e6)
        try:
            ran = await tail.batcher.submit(rows, seconds)
        except Busy as busy:
            body = msgspec.json.encode({"error": f"{model}: {busy}; come again later"})
            headers = {"Retry-After": str(math.ceil(busy.seconds)), "X-Retry-After-Ms": str(math.ceil(busy.seconds * 1e3))}
            return Response(body, status_code=503, media_type="application/json", headers=headers)
        timing = {"compute_us": int(ran.computed * 1e6), "queue_us": int(ran.waited * 1e6), "waiting": tail.batcher.waiting}
        content, length = inference.encode_response(model, tail.version, asked, {OUTPUT_TENSOR: ran.scores}, timing)
        headers = {} if length is None else {inference.HEADER_LENGTH: str(length)}
        if "deflate" in request.headers.get("accept-encoding", "") and len(content) > WORTH_DEFLATING_BYTES:
            content, headers["Content-Encoding"] = zlib.compress(content, 1), "deflate"
        return Response(content, media_type="application/json" if length is None else "application/octet-stream", headers=headers)


def _decoded(request: Sent, body: bytes, most: int) -> inference.Request:
    """Raises DataError."""
    coding = request.headers.get("content-encoding", "")
    if coding == "deflate":
        opened = zlib.decompressobj()
        try:
            body = opened.decompress(body, most)
        except zlib.error as error:
            raise DataError(f"the body is not deflated: {error}") from error
        if opened.unconsumed_tail:
            raise DataError(f"the body is more than {most} bytes when unpacked")
    elif coding not in ("", "identity"):
        raise DataError(f"Content-Encoding {coding[:30]!r}; deflate is understood")
    length = request.headers.get(inference.HEADER_LENGTH.lower())
    if length is not None and not (length.isascii() and length.isdigit()):
        raise DataError(f"{inference.HEADER_LENGTH} {length[:50]!r} is no number")
    return inference.decode_request(body, None if length is None else int(length[:18]))
