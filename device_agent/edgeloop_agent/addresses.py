"""How network addresses are written. Imports no network library: the worker does without."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def authority(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine itself."""
    try:
        where = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return (getattr(where, "ipv4_mapped", None) or where).is_loopback


def local(host: str) -> str:
    """The host under which this machine reaches a server of its own that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def is_http(address: str) -> bool:
    """Whether it is http:// or https:// with a host, and with a port where it names one."""
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number; half an IPv6 address, or one without brackets
        return False
