"""A hub's HTTP interface, as a device uses it. Every request has a deadline, every answer a ceiling; nothing here is trusted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import urllib3

from edgeloop_agent.connection_pool import plain, pool
from edgeloop_agent.redirects import STATUSES, OutOfDate, Redirects
from edgeloop_contract.errors import NetworkError
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.messages import READS_HEADER, REDIRECTS_HEADER, Assignment, Enrolled, Enrolment, Report, decode, encode

__all__ = ["CHUNK", "HubClient", "NotFound", "Refused"]

CHUNK = 64 << 10
MAX_ANSWER_BYTES = 1 << 20
PROXY_PASSWORD = "the proxy wants a name and password: HTTP_PROXY=http://NAME:PASSWORD@HOST:PORT"


class NotFound(NetworkError):
    """The other side answers, but has no such file."""


class Refused(NetworkError):
    """The other side answers, and will never accept this."""


class HubClient:
    """One hub; also an origin of signed metadata and bundles (updates/origins.py).

    `detour`: why the last file came from the hub itself, although the hub had named another address for it; "" where it did not.
    """

    detour = ""

    def __init__(self, address: str, credential: str, ca_file: str, timeout_seconds: float, use_proxies: bool = True) -> None:
        self.address = address.rstrip("/")
        self._seconds = timeout_seconds
        self._headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        timeout = urllib3.Timeout(connect=timeout_seconds, read=timeout_seconds)
        options = {"num_pools": 1, "maxsize": 1, "retries": False, "timeout": timeout, "ca_certs": ca_file or None}
        self._http = pool(self.address, use_proxies, head_deadline=True, **options)
        self._redirects = Redirects(self.address, ca_file, use_proxies, timeout)

    def enrol(self, enrolment: Enrolment) -> Enrolled:
        return decode(self._post("/api/v1/enrol", encode(enrolment)), Enrolled, self.address)

    def assignment(self, etag: str) -> tuple[Assignment | None, str]:
        """What the hub wants this device to run, and its etag; None when it is unchanged since `etag`."""
        answer = self._ask("GET", "/api/v1/update", {READS_HEADER: str(SCHEMA), **({"If-None-Match": etag} if etag else {})})
        if answer.status == 304:
            answer.drain_conn()
            return None, etag
        return decode(self._whole(answer), Assignment, self.address), answer.headers.get("ETag", "")

    def report(self, report: Report) -> None:
        self._post("/api/v1/report", encode(report))

    def samples(self, body: bytes) -> None:
        """An upload of the outbox: stored when this returns."""
        self._whole(self._ask("POST", "/api/v1/outbox", {"Content-Type": "application/msgpack"}, body))

    def metadata(self, name: str) -> Iterator[bytes]:
        answer = self._ask("GET", f"/tuf/metadata/{name}", {})
        return self._chunks(answer, time.monotonic() + 3 * self._seconds)

    def target(self, name: str, offset: int) -> tuple[int, Iterator[bytes]]:
        answer = self._file(name, {"Range": f"bytes={offset}-"} if offset else {})
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        return offset if resumed else 0, self._chunks(answer, None)

    def part(self, name: str, begins: int, size: int) -> Iterator[bytes]:
        asked = f"{begins}-{begins + size - 1}"
        answer = self._file(name, {"Range": f"bytes={asked}"})
        if answer.status != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {asked}/"):
            answer.close()
            raise NotFound(f"{self.address}: gives no parts of a file")
        return self._chunks(answer, None)

    def _file(self, name: str, part: dict[str, str]) -> Any:
        path = f"/tuf/targets/{name}"
        self.detour = ""
        try:
            return self._redirected(path, part)
        except NetworkError as error:
            if not isinstance(error.__cause__, NetworkError):
                raise  # the hub's own answer
            self.detour = str(error)
            return self._ask("GET", path, part)

    def _redirected(self, path: str, part: dict[str, str]) -> Any:
        """The hub's answer, or that of the address which it names: asked for once more where that has expired meanwhile.

        Raises NetworkError; from another NetworkError where the other address was the problem.
        """
        for tries_left in (1, 0):
            answer = self._ask("GET", path, {REDIRECTS_HEADER: "1", **part})
            if answer.status not in STATUSES:
                return answer
            location = answer.headers.get("Location", "")
            answer.drain_conn()
            answer.release_conn()
            try:
                return self._redirects.follow(self.address + path, location, part)
            except NetworkError as error:
                if not (tries_left and isinstance(error, OutOfDate)):
                    raise NetworkError(str(error)) from error
        raise AssertionError("both tries return or raise")

    def _post(self, path: str, body: bytes) -> bytes:
        return self._whole(self._ask("POST", path, {"Content-Type": "application/json"}, body))

    def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
        try:
            answer = self._http.request(
                method, self.address + path, headers={**self._headers, **headers}, body=body, preload_content=False, redirect=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NetworkError(f"{self.address}: {plain(error)}") from error
        if answer.status in (200, 201, 204, 206, 304) or (REDIRECTS_HEADER in headers and answer.status in STATUSES):
            return answer
        said = self._error_text(answer)
        text = PROXY_PASSWORD if answer.status == 407 else said
        kind = {404: NotFound, 400: Refused, 413: Refused}.get(answer.status, NetworkError)
        raise kind(f"{self.address}{path}: status {answer.status}{f': {text}' if text else ''}")

    def _error_text(self, answer: Any) -> str:
        try:
            return str(answer.read(300, decode_content=False).decode("utf-8", "replace"))
        except (urllib3.exceptions.HTTPError, OSError):
            return ""
        finally:
            answer.close()

    def _whole(self, answer: Any) -> bytes:
        body = bytearray()
        for chunk in self._chunks(answer, time.monotonic() + 3 * self._seconds):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES:
                answer.close()
                raise NetworkError(f"{self.address}: an answer of more than {MAX_ANSWER_BYTES} bytes; is this a hub?")
        return bytes(body)

    def _chunks(self, answer: Any, deadline: float | None) -> Iterator[bytes]:
        """The body in chunks; ends at the deadline, however slowly the chunks come."""
        ended = False
        try:
            while chunk := answer.read1(CHUNK, decode_content=False):
                yield chunk
                if deadline is not None and time.monotonic() > deadline:
                    raise NetworkError(f"{self.address}: too slow an answer")
            ended = True
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NetworkError(f"{self.address}: {plain(error)}") from error
        finally:
            answer.release_conn() if ended else answer.close()
