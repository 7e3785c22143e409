"""Stand-ins of cameras: a picture by HTTP, good and bad, and a program that writes frames as rpicam-vid does."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

RPICAM = '''#!{python}
"""rpicam-vid as the agent calls it: the same options, the same bytes. MODE says what goes wrong."""
import argparse, io, os, pathlib, sys, time
parser = argparse.ArgumentParser()
for name in ("--camera", "--width", "--height", "--quality"):
    parser.add_argument(name, type=int, default=0)
for name in ("--nopreview", "--flush"):
    parser.add_argument(name, action="store_true")
parser.add_argument("--timeout", default="5sec")
parser.add_argument("--framerate", type=float, default=30)
parser.add_argument("--codec", choices=["h264", "mjpeg", "yuv420", "libav"], default="h264")
parser.add_argument("--output", default="")
options = parser.parse_args()
here = pathlib.Path(__file__).parent
with (here / "called").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + f" pid={{os.getpid()}}\\n")
mode = (here / "mode").read_text() if (here / "mode").exists() else ""
out = sys.stdout.buffer
if mode == "no camera":
    sys.exit("ERROR: *** no cameras available ***")
if mode == "flood":
    frame_words = b"#1 (30.00 fps) exp 33251.00 ag 8.00 dg 1.00\\n" * 40000
jpeg, yuv = (here / "frame.jpg").read_bytes(), (here / "frame.yuv").read_bytes()
other = (here / "other.jpg").read_bytes()
number = 0
while True:
    number += 1
    if mode == "hang" and number > 5:
        time.sleep(3600)
    if mode == "flood":
        sys.stderr.buffer.write(frame_words)
    if mode == "noise":
        out.write((b"\\xff\\xd8\\xff\\xda" if number == 1 else b"") + b"\\x00" * (1 << 20))
    elif mode == "drip":
        out.write(jpeg[number - 1 : number])
    elif mode == "sizes" and number % 2:
        out.write(other)
    elif mode == "cut" and number % 2:
        out.write(jpeg[:300] if number % 4 == 1 else jpeg.replace(b"\\xff\\xc0", b"\\xff\\xc5"))
    else:
        out.write(yuv if options.codec == "yuv420" else jpeg)
    out.flush()
    time.sleep(1 / options.framerate)
'''


def jpeg_of(picture: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=95, **options)
    return out.getvalue()


def yuv420_of(picture: np.ndarray) -> bytes:
    """Planar, full range, as rpicam-vid writes it."""
    planes = np.asarray(Image.fromarray(picture).convert("YCbCr"))
    height, width = planes.shape[:2]
    halves = [planes[..., i].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)).astype(np.uint8) for i in (1, 2)]
    return planes[..., 0].tobytes() + b"".join(half.tobytes() for half in halves)


def rpicam(folder: Path, picture: np.ndarray, other: np.ndarray | None = None, mode: str = "") -> dict[str, str]:
    """Put a stand-in into `folder`; returns the environment in which it is found."""
    import sys

    folder.mkdir(exist_ok=True)
    (folder / "frame.jpg").write_bytes(jpeg_of(picture))
    (folder / "frame.yuv").write_bytes(yuv420_of(picture))
    (folder / "other.jpg").write_bytes(jpeg_of(picture if other is None else other))
    (folder / "mode").write_text(mode)
    (folder / "rpicam-vid").write_text(RPICAM.format(python=sys.executable))
    (folder / "rpicam-vid").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def basic_of(password: str) -> str:
    return "Basic " + base64.b64encode(password.encode()).decode()


def is_digest(said: str, password: str) -> bool:
    """Whether it is the answer of RFC 7616 to the stand-in's challenge. `password`: with the name before it."""
    words = dict(re.findall(r'(\w+)="?([^",]*)"?', said.replace('realm="cam, 1"', "")))
    name, _, secret = password.partition(":")

    def md5(text: str) -> str:
        return hashlib.md5(text.encode()).hexdigest()

    rest = f"{words.get('nonce')}:{words.get('nc')}:{words.get('cnonce')}:auth:{md5('GET:/snap.jpg')}"
    return words.get("username") == name and words.get("response") == md5(f"{md5(f'{name}:cam, 1:{secret}')}:{rest}")


class HttpCamera:
    """`picture`: the JPEG that it has now. `behave`: instead of an answer, given the handler."""

    def __init__(self, picture: bytes) -> None:
        self.picture, self.password, self.with_etag, self.digest = picture, "", True, False
        self.behave: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.statuses: Counter[int] = Counter()
        self.authorizations: list[str] = []
        camera = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if camera.behave is not None:
                    self.close_connection = True
                    camera.behave(self)
                    return
                tag = f'"{hash(camera.picture):x}"'
                said, status = self.headers.get("Authorization", ""), 200
                camera.authorizations.append(said)
                right = is_digest(said, camera.password) if camera.digest else said == basic_of(camera.password)
                if camera.password and not right:
                    status = 401
                elif camera.with_etag and self.headers.get("If-None-Match") == tag:
                    status = 304
                camera.statuses[status] += 1
                self.send_response(status)
                body = camera.picture if status == 200 else b""
                if status == 401:
                    ask = 'Digest realm="cam, 1", qop="auth", nonce="n1", algorithm=MD5' if camera.digest else 'Basic realm="cam"'
                    self.send_header("WWW-Authenticate", ask)
                if camera.with_etag:
                    self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/snap.jpg"


@contextmanager
def http_camera(picture: np.ndarray) -> Iterator[HttpCamera]:
    camera = HttpCamera(jpeg_of(picture))
    try:
        yield camera
    finally:
        camera.server.shutdown()
        camera.server.server_close()


def head(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n".encode()


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """A byte a second for a minute: first of the head."""
    try:
        for byte in head(100_000):
            handler.wfile.write(bytes([byte]))
            time.sleep(0.3)
    except OSError:
        pass


def dripping_body(handler: BaseHTTPRequestHandler) -> None:
    try:
        handler.wfile.write(head(100_000) + b"\xff\xd8")
        for _ in range(200):
            handler.wfile.write(b"\0")
            time.sleep(0.3)
    except OSError:
        pass


def sending(body: bytes, status: str = "200 OK", extra: str = "") -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body)

    return send


def endless(handler: BaseHTTPRequestHandler) -> None:
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n\xff\xd8")
        while True:
            handler.wfile.write(bytes(1 << 20))
    except OSError:
        pass


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(30)


def huge_jpeg(width: int = 10_000, height: int = 10_000) -> bytes:
    """A JPEG whose head says so many pixels."""
    data = bytearray(jpeg_of(np.zeros((16, 16, 3), np.uint8)))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(data)
