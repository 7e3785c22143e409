"""HTTP POST: each answer to one address, as JSON or as a CloudEvent (binary mode of its HTTP binding 1.0)."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
import urllib3

from edgeloop_agent.config import Output
from edgeloop_agent.config.files_checked import secret_in
from edgeloop_agent.connection_pool import plain, pool
from edgeloop_agent.outputs.messages import Message
from edgeloop_agent.outputs.sending import Delivered
from edgeloop_contract.errors import UsageError
from edgeloop_contract.manifest import Manifest

__all__ = ["Webhook"]

CONNECT_SECONDS = 5.0
BATCH_SECONDS = 10.0  # of one call of `send`
MAX_ANSWER_BYTES = 64 << 10
NEVER = (400, 413, 415, 422)  # of this message: others may pass
EVENT = "org.edgeloop.answer"
UNESCAPED = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"  # printable, without space, quotation mark and per cent


class Webhook:
    """Posts messages one after the other. `device`: in the event's source."""

    def __init__(self, settings: Output, device: str, use_proxies: bool) -> None:
        self._address, self._events, self._device = settings.where, settings.format == "cloudevents", device
        self.where = settings.where.partition("?")[0]  # in logs and metrics: a query may hold a secret
        self._headers = {"User-Agent": "edgeloop-agent", "Content-Type": "application/json"}
        if settings.token_file:
            try:
                self._headers["Authorization"] = f"Bearer {secret_in(settings.token_file)}"
            except (OSError, ValueError) as error:
                raise UsageError(f"output.token_file: {settings.token_file} cannot be read ({type(error).__name__})") from error
        self._seconds = settings.timeout_seconds
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, self._seconds), read=self._seconds)
        options = {"num_pools": 1, "maxsize": 1, "retries": False, "timeout": timeout, "ca_certs": settings.ca_file or None}
        self._http = pool(settings.where, use_proxies, head_deadline=True, **options)

    def send(self, messages: Sequence[Message]) -> Delivered:
        """A message that may have arrived when a deadline passed is sent again: receivers know it by its id."""
        refused, reason, end = 0, "", time.monotonic() + BATCH_SECONDS
        for count, message in enumerate(messages):
            if count and time.monotonic() > end:
                return Delivered(count, refused, reason=reason)
            body, headers = self._as_request(message)
            deadline = time.monotonic() + self._seconds
            try:
                answer = self._http.request(
                    "POST", self._address, body=body, headers=headers, preload_content=False, redirect=False
                )  # fmt: skip
                self._finish(answer, deadline)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                return Delivered(count, refused, plain(error), reason=reason)
            if 200 <= answer.status < 300:
                continue
            if answer.status in NEVER:
                refused, reason = refused + 1, f"status {answer.status}"
                continue
            wait = answer.headers.get("Retry-After", "")
            followed = "; redirects are not followed: name the address itself" if 300 <= answer.status < 400 else ""
            why = f"status {answer.status}{followed}"
            return Delivered(count, refused, why, float(wait) if wait.isdigit() else 0.0, reason)
        return Delivered(len(messages), refused, reason=reason)

    def use(self, manifest: Manifest) -> None:
        """Each message names its model."""

    def close(self) -> None:
        self._http.clear()

    def _as_request(self, message: Message) -> tuple[bytes, dict[str, str]]:
        body, headers = message.body, dict(self._headers)
        if message.picture:
            encoded = base64.b64encode(message.picture).decode("ascii")
            body = body[:-1] + b',"picture":' + msgspec.json.encode({"content_type": "image/jpeg", "base64": encoded}) + b"}"
        if self._events:
            headers |= {
                "ce-specversion": "1.0", "ce-id": message.id, "ce-type": EVENT, "ce-time": message.time,
                "ce-source": f"/devices/{quote(self._device, safe=UNESCAPED)}",
            }  # fmt: skip
        return body, headers

    def _finish(self, answer: urllib3.BaseHTTPResponse, end: float) -> None:
        """Read a small answer that ends in time, so that the connection serves the next request; else close it."""
        read = 0
        try:
            while chunk := answer.read1(1 << 14, decode_content=False):
                read += len(chunk)
                if read > MAX_ANSWER_BYTES or time.monotonic() > end:
                    answer.close()
                    return
        except (urllib3.exceptions.HTTPError, OSError):  # the status came whole
            answer.close()
            return
        answer.release_conn()
