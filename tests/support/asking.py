"""Requests to a hub as a device, a script or a stranger makes them."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import numpy as np
import urllib3

from hubs import Hub

HTTP = urllib3.PoolManager(retries=False)


def ask(hub: Hub, method: str, path: str, secret: str = "", body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    said = {"Authorization": f"Bearer {secret}"} if secret else {}
    kind = {"Content-Type": "application/json"} if body is not None else {}
    return HTTP.request(method, hub.address + path, headers={**kind, **said, **headers}, body=content, redirect=False)


def enrolled(hub: Hub, name: str) -> str:
    answer = ask(hub, "POST", "/api/v1/enrol", body={"token": hub.run("token", "enrol", name), "device": name})
    assert answer.status == 200, answer.data
    return str(answer.json()["credential"])


def sample(key: str, **more: Any) -> dict[str, Any]:
    """A sample as it is on the wire."""
    values = np.zeros((16, 3), np.float32)
    fields = {"key": key, "at": 1.0, "kind": "uncertain", "model": "m", "sha256": "0" * 64, "recording": "r", "dtype": "float32"}
    return {**fields, "shape": [16, 3], "data": zlib.compress(values.tobytes()), **more}


def bring(hub: Hub, secret: str, *samples: dict[str, Any]) -> urllib3.BaseHTTPResponse:
    """Samples, as a device's outbox sends them."""
    body = msgspec.msgpack.encode({"samples": list(samples)})
    return ask(hub, "POST", "/api/v1/outbox", secret, body, **{"Content-Type": "application/msgpack"})
