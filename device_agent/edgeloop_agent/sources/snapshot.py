"""Pictures that a camera gives by HTTP, one at a request."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import urllib3

from edgeloop_agent.config import Source as Settings
from edgeloop_agent.connection_pool import plain, pool
from edgeloop_agent.sources.camera import password_of, shown
from edgeloop_agent.sources.http_login import Login
from edgeloop_agent.sources.jpegs import START, decoded, needs_pillow
from edgeloop_agent.sources.live_frames import CameraGone, Device, Frame, LiveFrames

__all__ = ["snapshots"]

CONNECT_SECONDS = 5.0
CHUNK = 1 << 16


def snapshots(settings: Settings) -> LiveFrames:
    """The source. Raises DeviceError where Pillow is missing, and UsageError for a password file that cannot be used."""
    needs_pillow()
    password_of(settings)
    return LiveFrames(settings, lambda: Snapshots(settings), f"camera {shown(settings.where)}")


class Snapshots(Device):
    """Asks every `interval_seconds`. What is not modified (by its ETag, its date or its bytes) is not answered again."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._camera = settings, settings.camera
        self._headers = {"User-Agent": "edgeloop-agent", "Accept": "image/jpeg"}
        self._login = Login(settings.where, settings.username, password_of(settings))
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, self._camera.read_seconds), read=self._camera.read_seconds)
        options: dict[str, Any] = {
            "num_pools": 1,
            "maxsize": 1,
            "retries": False,
            "timeout": timeout,
            "ca_certs": self._camera.ca_file or None,
        }
        self._http = pool(settings.where, False, **options)  # a camera is near: no proxy
        self._sockets = _remembered(self._http, settings.where)
        self._validators: dict[str, str] = {}
        self._digest, self._ended, self._due = b"", threading.Event(), time.monotonic()
        self.pause_seconds = self._camera.interval_seconds
        self.what = f"snapshots each {self._camera.interval_seconds:g} s"

    def read(self) -> Frame | None:
        self._ended.wait(max(0.0, self._due - time.monotonic()))
        if self._ended.is_set():
            return None
        asked = time.monotonic()  # the light fell on it after this, unless the camera keeps old pictures
        self._due = asked + self._camera.interval_seconds
        data = self._picture(asked + self._camera.read_seconds)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if not data or digest == self._digest:
            return Frame(asked, None)
        self._digest = digest
        return Frame(asked, partial(decoded, data, self._camera.max_pixels))

    def _picture(self, end: float) -> bytes:
        """The JPEG; b"" where it is not modified."""
        try:
            answer = self._asked()
            if answer.status == 401 and self._login.accept(answer.headers.getlist("WWW-Authenticate")):
                answer.close()
                answer = self._asked()
            return self._body(answer, end)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise CameraGone(plain(error)[:200]) from error

    def _asked(self) -> urllib3.BaseHTTPResponse:
        headers = {**self._headers, **self._validators, **self._login.headers()}
        return self._http.request("GET", self._settings.where, headers=headers, preload_content=False, redirect=False)

    def _body(self, answer: urllib3.BaseHTTPResponse, end: float) -> bytes:
        if answer.status == 304:
            answer.release_conn()
            return b""
        data, limit = bytearray(), self._camera.max_bytes
        try:
            if answer.status != 200:
                where = f", which leads to {shown(answer.headers['Location'])}" if "Location" in answer.headers else ""
                raise CameraGone(f"status {answer.status}{where}")
            while chunk := answer.read1(CHUNK):
                data += chunk
                if len(data) > limit:
                    raise CameraGone(f"a picture of more than {limit} bytes; raise source.camera.max_bytes")
                if time.monotonic() > end:
                    raise CameraGone(f"{len(data)} bytes in {self._camera.read_seconds:g} s; raise source.camera.read_seconds")
        except CameraGone:
            answer.close()
            raise
        answer.release_conn()
        if not data.startswith(START):
            raise CameraGone("no JPEG; name the address of a picture")
        known = {"If-None-Match": answer.headers.get("ETag"), "If-Modified-Since": answer.headers.get("Last-Modified")}
        self._validators = {name: value for name, value in known.items() if value}
        return bytes(data)

    def close(self) -> None:
        self._http.clear()

    def interrupt(self) -> None:
        """Break a connection that drips, whatever it waits for."""
        self._ended.set()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _remembered(http: urllib3.PoolManager, where: str) -> deque[socket.socket]:
    """The last socket that connections to `where` opened."""
    sockets: deque[socket.socket] = deque(maxlen=1)
    connections: Any = http.connection_from_url(where)

    class Remembering(connections.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    connections.ConnectionCls = Remembering
    return sockets
