"""Who may use the local API: programs and its own pages, but no foreign page in a browser."""

from __future__ import annotations

import ipaddress
import re
import socket
import zlib
from collections.abc import Sequence

from edgeloop_agent.local_api.connection import Refusal

PORT = re.compile(r":\d{1,5}$")
CODINGS = {"gzip": 47, "x-gzip": 47, "deflate": 47}  # what zlib is to expect: either of its heads


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
