"""Who may use the local API: programs and its own pages, but no foreign page in a browser; from elsewhere with a token."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
import zlib
from collections.abc import Sequence
from pathlib import Path

from edgeloop_agent.addresses import is_loopback
from edgeloop_agent.config import Api
from edgeloop_agent.local_api.connection import Refusal, Request
from edgeloop_contract.errors import UsageError

MIN_TOKEN = 16
COOKIE = "edgeloop"
PAGES = frozenset(("/", "/page/events", "/page/picture"))  # where the cookie counts: it opens the page alone
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
PORT = re.compile(r":\d{1,5}$")
CODINGS = {"gzip": 47, "x-gzip": 47, "deflate": 47}  # what zlib is to expect: either of its heads


class Door:
    """Asks for the token of `api.token_file` whoever does not ask from the device itself. Without a token everybody may come in."""

    def __init__(self, settings: Api) -> None:
        """Raises UsageError for a token that cannot be read, or is short enough to be guessed."""
        self._token = self._cookie = b""
        if not settings.token_file:
            return
        try:
            self._token = Path(settings.token_file).read_bytes().strip()
        except OSError as error:
            raise UsageError(f"api.token_file: {settings.token_file} cannot be read ({error.strerror})") from error
        if len(self._token) < MIN_TOKEN or any(byte <= 32 or byte > 126 for byte in self._token):
            remedy = f"write one into it: openssl rand -hex 16 > {settings.token_file}"
            raise UsageError(
                f"api.token_file: {settings.token_file} holds no token of {MIN_TOKEN} letters and digits or more; {remedy}"
            )
        self._cookie = hmac.digest(self._token, b"page", "sha256").hex().encode()

    def lets_in(self, request: Request) -> bool:
        """By its address, its bearer token, or the page's cookie. A proxy here asks for others, and says so."""
        if not self._token or (is_loopback(request.peer) and not any(name in request.headers for name in FORWARDED)):
            return True
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.knows(given.strip().encode("latin-1")):
            return True
        cookies = (part.strip().partition("=") for part in request.headers.get("cookie", "").split(";"))
        mine = next((value for name, _, value in cookies if name == COOKIE), "")
        return request.path in PAGES and hmac.compare_digest(mine.encode("latin-1"), self._cookie)

    def knows(self, token: bytes) -> bool:
        return hmac.compare_digest(token, self._token)

    def check(self, request: Request) -> None:
        """Raises Refusal."""
        if not self.lets_in(request):
            raise Refusal(
                401, "send the token of api.token_file: Authorization: Bearer TOKEN", headers={"WWW-Authenticate": "Bearer"}
            )

    def cookie(self) -> str:
        """For a browser that gave the token: no script reads it, no other site sends it, and it says nothing of the token."""
        return f"{COOKIE}={self._cookie.decode()}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"


def check(headers: dict[str, str], names: Sequence[str]) -> None:
    """Raises Refusal for a Host that is not this device, and for a page of another origin.

    A page's own name may resolve to 127.0.0.1 (DNS rebinding), but then Host is neither an address nor one of our names. `names`:
    those of the config.
    """
    host = headers.get("host")
    if host is not None and not _is_ours(_name(host), names):
        remedy = "use its address, or add the name to api.names"
        raise Refusal(403, f"Host {host[:100]!r} is not a name of this device; {remedy}", close=True)
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != (host or "").lower():
        raise Refusal(403, f"pages of {origin[:100]!r} may not use this API", close=True)
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        raise Refusal(403, "pages of another site may not use this API", close=True)


def _name(host: str) -> str:
    return PORT.sub("", host).lower().rstrip(".")


def _is_ours(name: str, names: Sequence[str]) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
        return True
    except ValueError:
        own = socket.gethostname().lower()
        short = own.partition(".")[0]
        known = {"localhost", own, short, f"{short}.local", *(n.lower() for n in names)}
        return name in known or name.endswith(".localhost")


def unpacked(body: bytes | bytearray, coding: str, max_bytes: int) -> bytes | bytearray:
    """The body without its Content-Encoding. Raises Refusal."""
    coding = coding.lower().strip()
    if coding in ("", "identity"):
        return body
    if coding not in CODINGS:
        known = {"Accept-Encoding": "gzip, deflate"}
        raise Refusal(415, f"Content-Encoding {coding[:50]!r}; gzip and deflate are understood", headers=known)
    opened = zlib.decompressobj(CODINGS[coding])
    try:
        whole = opened.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Refusal(400, f"a body that is not {coding} ({error})") from error
    if len(whole) > max_bytes:
        raise Refusal(413, f"a body that unpacks to more than {max_bytes} bytes")
    if not opened.eof or opened.unused_data:
        raise Refusal(400, f"a body that is not one whole {coding} stream")
    return whole
