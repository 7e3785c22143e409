"""The MQTT library (the extra `mqtt`), for sources and outputs."""

from __future__ import annotations

import socket
from typing import Any

from edgeloop_contract.errors import DeviceError

__all__ = ["mqtt_library"]


def mqtt_library(what: str) -> Any:
    """paho-mqtt's client. `what`: needs it. Raises DeviceError without the library."""
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise DeviceError(f"an MQTT {what} needs paho-mqtt ({error}); pip install 'edgeloop[mqtt]'") from error
    client._socketpair_compat = _pair  # its own needs 127.0.0.1, which a machine without IPv4 lacks
    return client


def _pair() -> tuple[socket.socket, socket.socket]:
    """Two ends by which one thread wakes another."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends
