"""How addresses are written. Light: the worker imports it where no other machine is asked."""

from __future__ import annotations


def authority(host: str, port: int) -> str:
    """Host and port as an address has them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local(host: str) -> str:
    """Where a server that listens on `host` is asked on this machine."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
