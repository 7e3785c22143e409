"""A server that has tails: any that speaks Open Inference Protocol v2, such as the hub or Triton."""

from __future__ import annotations

import contextlib
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

from edgeloop_agent.connection_pool import pool
from edgeloop_agent.offload.link import Breaker, Link
from edgeloop_contract import inference
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError, NetworkError, UsageError
from edgeloop_contract.manifest import Coding
from edgeloop_contract.splitting import EXTENSION, FILES

MAX_ANSWER_BYTES = 16 << 20
HTTP_OVERHEAD_BYTES = 450  # of a request and its answer, about
CONNECTIONS = 2


class NotServed(NetworkError):
    """The tail answers, and has not this model (or not this version of it)."""


class TailBusy(NetworkError):
    """The tail asks to be left alone for `seconds`."""

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__(text)
        self.seconds = seconds


@dataclass(frozen=True)
class Reply:
    """`seconds`: from sending to the last byte; `computed`, `waited`: of these, by the server (0: it does not say)."""

    scores: Array
    seconds: float
    bytes: int
    computed: float
    waited: float


class Tail:
    """One address, with what is known of the link to it. `codings`: beside raw and deflated tensors."""

    def __init__(
        self, address: str, headers: dict[str, str], ca_file: str, timeout_seconds: float, use_proxies: bool = True
    ) -> None:  # fmt: skip
        self.address, self.link, self.breaker = address.rstrip("/"), Link(), Breaker()
        self.codings: frozenset[Coding] | None = None
        self.last_used, self.recent_failures, self.waiting = float("-inf"), 0.0, 0.0
        self.exploring, self.interrupted = False, False  # by a request, which shared the link with it
        self.absent: dict[str, float] = {}  # models that it did not have, and until when that is believed
        self._headers, self._timeout = headers, timeout_seconds
        self._http = pool(
            self.address, use_proxies, num_pools=1, maxsize=CONNECTIONS, block=False, retries=False, ca_certs=ca_file or None
        )  # fmt: skip

    def probe(self) -> float:
        """Seconds of an exchange of a few bytes. Raises NetworkError."""
        if self.codings is None:
            self._read_codings()
        start = time.perf_counter()
        self._request("GET", "/v2/health/ready", self._timeout)
        return time.perf_counter() - start

    def _read_codings(self) -> None:
        answer = self._request("GET", "/v2", self._timeout)
        more: list[Coding] = [c for c in ("4bit", *FILES) if f'"{EXTENSION}{c}"'.encode() in answer.data]
        self.codings = frozenset(("raw", "deflate", *more))

    def wait_ready(self, model: str) -> None:
        """Returns when the model is loaded there. Raises NotServed, NetworkError."""
        self._request("GET", f"/v2/models/{model}/ready", max(self._timeout, 30.0))
        self.absent.pop(model, None)

    def infer(self, model: str, tensor: str, values: Array, deflated: bool, seconds: float) -> Reply:
        """Scores of one boundary. Raises NetworkError; DataError for a malformed answer."""
        body, json_length = inference.encode_request(tensor, values, {"timeout": int(seconds * 1e6)})
        headers = {
            inference.HEADER_LENGTH: str(json_length),
            "Accept-Encoding": "deflate",
            "Content-Type": "application/octet-stream",
        }
        if deflated:
            body = zlib.compress(body, 1)
            headers["Content-Encoding"] = "deflate"
        start = time.perf_counter()
        answer = self._request("POST", f"/v2/models/{model}/infer", seconds, headers, body)
        took = time.perf_counter() - start
        content = answer.data
        crossed = len(body) + len(content) + HTTP_OVERHEAD_BYTES
        if answer.headers.get("Content-Encoding") == "deflate":
            content = _inflated(content)
        length = answer.headers.get(inference.HEADER_LENGTH, "")
        outputs, parameters = inference.decode_response(content, int(length) if length.isascii() and length.isdigit() else None)
        if len(outputs) != 1:
            raise DataError(f"{self.address}: {len(outputs)} outputs; one is wanted")
        computed, waited = (_seconds(parameters.get(name)) for name in ("compute_us", "queue_us"))
        return Reply(np.asarray(next(iter(outputs.values())), np.float32), took, crossed, computed, waited)

    def _request(
        self, method: str, path: str, seconds: float, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Any:
        """A whole answer within about `seconds`; asked twice where the connection had been closed meanwhile."""
        deadline = time.monotonic() + seconds
        sent = {**self._headers, **(headers or {})}
        try:
            try:
                answer = self._open(method, path, sent, body, seconds)
            except urllib3.exceptions.ProtocolError:
                answer = self._open(method, path, sent, body, max(0.001, deadline - time.monotonic()))
            data = self._read(answer, deadline)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise NetworkError(f"{self.address}: {type(error).__name__}: {error}") from error
        if answer.status == 200:
            return _Answer(data, answer.headers)
        text = data[:200].decode("utf-8", "replace")
        if answer.status in (429, 503):
            raise TailBusy(f"{self.address}: status {answer.status}: {text}", _pause(answer.headers))
        kind = NotServed if answer.status in (400, 401, 403, 404) else NetworkError
        raise kind(f"{self.address}{path}: status {answer.status}: {text}")

    def _open(self, method: str, path: str, headers: dict[str, str], body: bytes | None, seconds: float) -> Any:
        return self._http.request(
            method, self.address + path, headers=headers, body=body, timeout=urllib3.Timeout(total=seconds), preload_content=False,
            redirect=False, decode_content=False,
        )  # fmt: skip

    def _read(self, answer: Any, deadline: float) -> bytes:
        """The whole body; a server that drips, or does not end, is left."""
        pieces, size = [], 0
        while piece := answer.read1(1 << 16, decode_content=False):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                answer.close()
                raise NetworkError(f"{self.address}: the answer is too long, or too slow")
        answer.release_conn()
        return b"".join(pieces)


@dataclass(frozen=True)
class _Answer:
    data: bytes
    headers: Any


def _pause(headers: Any) -> float:
    """Seconds to wait, as the server asks for it: 0.05 to 60."""
    for name, unit in (("X-Retry-After-Ms", 1e-3), ("Retry-After", 1.0)):
        with contextlib.suppress(ValueError):
            return min(60.0, max(0.05, float(headers.get(name, "")) * unit))
    return 1.0


def _seconds(microseconds: object) -> float:
    plain = isinstance(microseconds, int | float) and not isinstance(microseconds, bool)
    return min(3600.0, max(0.0, microseconds * 1e-6)) if plain else 0.0  # type: ignore[operator]


def _inflated(content: bytes) -> bytes:
    opened = zlib.decompressobj()
    try:
        whole = opened.decompress(content, MAX_ANSWER_BYTES)
    except zlib.error as error:
        raise DataError(f"an answer that is not deflated: {error}") from error
    if opened.unconsumed_tail:
        raise DataError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return whole


def read_token(path: str) -> str:
    """The first line of a token's file; \"\" where there is none."""
    try:
        return Path(path).read_text(encoding="ascii").strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: the token cannot be read ({error}); check split.tails.token_file") from error
