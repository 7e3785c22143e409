"""Requests to a hub over HTTP, with their answers decoded."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import urllib3

from edgeloop_agent.connection_pool import pool
from edgeloop_contract.errors import NetworkError

READ_SECONDS = 60.0
T = TypeVar("T")


class _Problem(msgspec.Struct):
    detail: str = ""


class HubConnection:
    """A hub's address and a token of `edgeloop-hub token api`. Every method raises NetworkError with what the hub said."""

    def __init__(self, address: str, token: str, ca_file: str = "") -> None:
        self.address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._http = pool(
            self.address,
            retries=urllib3.Retry(total=3, redirect=0, backoff_factor=0.5, allowed_methods={"GET", "PUT"}),
            timeout=urllib3.Timeout(connect=10, read=READ_SECONDS), ca_certs=ca_file or None,
        )  # fmt: skip

    def get(self, path: str, kind: type[T]) -> T:
        return self._json(path, self._ask("GET", path), kind)

    def post(self, path: str, body: object, kind: type[T]) -> T:
        return self._json(path, self._ask("POST", path, msgspec.json.encode(body), "application/json"), kind)

    def put(self, path: str, part: bytes, kind: type[T]) -> T:
        return self._json(path, self._ask("PUT", path, part, "application/octet-stream"), kind)

    def delete(self, path: str) -> None:
        self._json(path, self._ask("DELETE", path), object)

    def get_packed(self, path: str, kind: type[T]) -> T:
        """An answer in MessagePack."""
        content = self.get_bytes(path)
        try:
            return msgspec.msgpack.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise self._unreadable(path, error) from error

    def get_bytes(self, path: str) -> bytes:
        """A file's bytes. Raises NetworkError also where there is no such file."""
        answer = self._ask("GET", path)
        if answer.status >= 300:
            raise NetworkError(f"{self.address}{path}: status {answer.status}")
        return bytes(answer.data)

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> urllib3.BaseHTTPResponse:
        headers = {**self._headers, **({"Content-Type": kind} if kind else {})}
        try:
            return self._http.request(method, f"{self.address}{path}", headers=headers, body=body)
        except urllib3.exceptions.HTTPError as error:
            why = str(error).rpartition(": ")[2].rstrip('")')
            raise NetworkError(f"{self.address}: {why}; does the hub run there?") from error

    def _json(self, path: str, answer: urllib3.BaseHTTPResponse, kind: type[T]) -> T:
        if answer.status >= 300:
            raise NetworkError(f"{self.address}: {self._detail(path, answer)}")
        try:
            return msgspec.json.decode(answer.data or b"null", type=kind)
        except msgspec.ValidationError as error:
            raise self._unreadable(path, error) from error
        except msgspec.DecodeError as error:
            raise self._no_json(path, answer.status) from error

    def _detail(self, path: str, answer: urllib3.BaseHTTPResponse) -> str:
        try:
            return msgspec.json.decode(answer.data or b"null", type=_Problem).detail
        except msgspec.ValidationError:
            return str(answer.status)
        except msgspec.DecodeError as error:
            raise self._no_json(path, answer.status) from error

    def _no_json(self, path: str, status: int) -> NetworkError:
        return NetworkError(
            f"{self.address}{path}: answered {status} with no JSON; is this a hub, or what does the proxy before it say?"
        )

    def _unreadable(self, path: str, error: Exception) -> NetworkError:
        return NetworkError(f"{self.address}{path}: an answer of another form ({error}); is the hub of another release?")
