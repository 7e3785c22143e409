"""How network addresses are written. Imports nothing: the worker needs it without any network library."""

from __future__ import annotations


def authority(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local(host: str) -> str:
    """The host under which this machine reaches a server of its own that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
