"""One device's share of a worker: so many requests and bytes a second. Beyond it a request is refused before its body is read."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec
from litestar.types import ASGIApp, Receive, Scope, Send

from edgeloop_hub.auth.known_credentials import KnownCredentials
from edgeloop_hub.settings import Settings

PATHS = ("/api/v1/", "/tuf/")  # tails have limits of their own
BEARER = b"Bearer "
MAX_WATCHED = 10_000  # devices with a bucket; others have not asked for long, and theirs is full
BURST_REQUESTS, BURST_BYTES = 200.0, float(16 << 20)
FEW_BYTES = 65_536  # a report, or a poll: a device whose large messages wait still says how it is
UNSAID_BYTES = 8 << 20  # of a body that does not say how long it is
MAX_HELD, HELD_SECONDS = 4, 1.0  # refusals of one device that wait, so that asking again at once gains nothing; and how long
AT_ONCE, MAX_UNDER_WAY = 3, 8  # messages of one device: one whose connection broke may be waited for long; and those that wait
REFUSED, REFUSED_COUNTS = (400, 413, 429), 10
WORDS = "too many requests, or too much, from this device in a short time; come again later"


class Buckets:
    """By device: what it may still send. Filled by so much a second, up to a burst."""

    def __init__(self, requests: float, size: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates, self._clock = (requests, size), clock
        self._left: OrderedDict[str, tuple[float, float, float]] = OrderedDict()  # requests, bytes, when

    def take(self, device: str, size: int) -> float:
        """Seconds until the device may send so many bytes; 0.0: it may now, and they are taken. Few bytes count as a request."""
        now = self._clock()
        requests, space, at = self._left.pop(device, (BURST_REQUESTS, BURST_BYTES, now))
        requests = min(BURST_REQUESTS, requests + (now - at) * self._rates[0])
        space = min(BURST_BYTES, space + (now - at) * self._rates[1])
        needed = min(float(size), BURST_BYTES) if size > FEW_BYTES else 0.0
        wait = max((1 - requests) / self._rates[0], (needed - space) / self._rates[1] if needed else 0.0, 0.0)
        self._left[device] = (requests, space, now) if wait else (requests - 1, space - needed, now)
        if len(self._left) > MAX_WATCHED:
            self._left.popitem(last=False)
        return wait

    def charge(self, device: str, size: int) -> None:
        """A refused message: two requests more, and many times its bytes where it is large, as far as one burst of debt."""
        requests, space, at = self._left.get(device, (BURST_REQUESTS, BURST_BYTES, self._clock()))
        space = max(space - REFUSED_COUNTS * size, -BURST_BYTES) if size > FEW_BYTES else space
        self._left[device] = (max(requests - 2, -BURST_REQUESTS), space, at)


class FairShare:
    """An ASGI application around the hub's. Strangers have no share: their requests are refused where credentials are asked for."""

    def __init__(self, app: ASGIApp, known: KnownCredentials, settings: Settings) -> None:
        self._app, self._known = app, known
        self._buckets = Buckets(settings.device_requests_per_second, settings.device_bytes_per_second)
        self._held: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Semaphore] = {}  # of devices with a message under way
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        device = self._device(scope)
        wait = self._buckets.take(device, _size(scope)) if device else 0.0
        if wait or self._under_way[device] >= MAX_UNDER_WAY:
            await self._refuse(device, wait or HELD_SECONDS, send)
        elif device and scope["method"] == "POST":  # type: ignore[typeddict-item]
            await self._in_turn(device, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _watched(self, device: str, size: int, send: Send) -> Send:
        """A message that the hub refuses has cost it as much as one that it stores, and brought nothing: it counts for many."""

        async def look(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] in REFUSED:
                self._buckets.charge(device, size)
            await send(message)

        return look

    async def _in_turn(self, device: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Few messages of a device at once: what takes long keeps its own sender waiting. Fetching files takes no turn."""
        self._under_way[device] += 1
        try:
            async with self._turns.setdefault(device, asyncio.Semaphore(AT_ONCE)):
                await self._app(scope, receive, self._watched(device, _size(scope), send))
        finally:
            self._under_way[device] -= 1
            if not self._under_way[device]:
                del self._under_way[device], self._turns[device]

    def _device(self, scope: Any) -> str:
        """The digest of a device's credential; "" for all others."""
        if scope["type"] != "http" or not scope["path"].startswith(PATHS):
            return ""
        secret = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        known = self._known.name_of(secret[len(BEARER) :].decode("latin-1")) if secret.startswith(BEARER) else None
        return known[0] if known else ""

    async def _refuse(self, device: str, wait: float, send: Send) -> None:
        if self._held[device] < MAX_HELD:
            self._held[device] += 1
            try:
                await asyncio.sleep(min(wait, HELD_SECONDS))
            finally:
                self._held[device] -= 1
                if not self._held[device]:
                    del self._held[device]
        body = msgspec.json.encode({"status_code": 429, "detail": WORDS})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"retry-after", str(int(wait) + 1).encode()), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _size(scope: Any) -> int:
    if scope["method"] in ("GET", "HEAD"):
        return 0
    said = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(said) if said.isdigit() and len(said) < 16 else UNSAID_BYTES
