"""Requests to a hub as a device, a script or a stranger makes them."""

from __future__ import annotations

import json
from typing import Any

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
