"""Notifications to systemd: datagrams as in sd_notify(3), only where systemd listens."""

from __future__ import annotations

import os
import socket


def notify(**fields: object) -> bool:
    """Send e.g. READY=1; False where there is no $NOTIFY_SOCKET, or it does not answer."""
    where = os.environ.get("NOTIFY_SOCKET", "")
    if not where:
        return False
    address = "\0" + where[1:] if where.startswith("@") else where
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.settimeout(1)
            out.connect(address)
            out.sendall("\n".join(f"{k}={v}" for k, v in fields.items()).encode())
    except OSError:
        return False
    return True
