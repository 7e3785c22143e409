"""HTTP POST of a message: signed CloudEvents, ntfy's JSON, and incoming webhooks as Slack has them."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from edgeloop_contract.errors import UsageError
from edgeloop_hub.alerts.outbox import Message
from edgeloop_hub.alerts.result import Refused, Unsent
from edgeloop_hub.alerts.settings import Channel
from edgeloop_hub.outgoing import failure_words, pool_for
from edgeloop_hub.settings_file import secret

CONNECT_SECONDS, READ_SECONDS = 5.0, 10.0
MAX_ANSWER_BYTES = 64 << 10
NEVER = (400, 413, 415, 422)  # of this message: others may pass
SIGNATURE = "X-Edgeloop-Signature"
PRIORITIES = {"info": 2, "warning": 3, "error": 5}  # of ntfy
TAGS = {"info": "information_source", "warning": "warning", "error": "rotating_light"}


def signature(key: str, at: int, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 of the seconds since 1970, a full stop and the body, under the key."""
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def post(channel: Channel, folder: Path, message: Message) -> None:
    """Raises Unsent, or Refused where another try makes no sense."""
    try:
        url = secret(folder / channel.url_file) if channel.url_file else channel.url
        address, body, headers = FORMS[channel.kind](channel, url, message)
        if channel.token_file:
            headers["Authorization"] = f"Bearer {secret(folder / channel.token_file)}"
        if channel.secret_file:
            headers[SIGNATURE] = signature(secret(folder / channel.secret_file), int(time.time()), body)
    except UsageError as error:
        raise Unsent(str(error)) from error
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    ca_file = str(folder / channel.ca_file) if channel.ca_file else None
    try:
        with pool_for(address, retries=False, timeout=timeout, ca_certs=ca_file) as http:
            answer = http.request("POST", address, body=body, headers=headers, preload_content=False, redirect=False)
            status, wait = answer.status, answer.headers.get("Retry-After", "")
            answer.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise Unsent(failure_words(error)) from error
    if 200 <= status < 300:
        return
    if status in NEVER:
        raise Refused(f"status {status}")
    raise Unsent(f"status {status}", float(wait) if wait.isdigit() else 0.0)


def _cloud_event(_: Channel, url: str, message: Message) -> tuple[str, bytes, dict[str, str]]:
    """CloudEvents 1.0 in structured mode: all that the signature covers is in the body."""
    event = {
        "specversion": "1.0", "id": message.id, "source": message.address or "edgeloop-hub",
        "type": f"org.edgeloop.alert.{message.what}", "time": _time(message.at), "subject": message.cause,
        "datacontenttype": "application/json",
        "data": {
            "alert": message.alert, "rule": message.rule, "severity": message.severity, "text": message.text,
            "count": message.count, "began": _time(message.began), "link": message.link,
        },
    }  # fmt: skip
    headers = {"Content-Type": "application/cloudevents+json", "User-Agent": "edgeloop-hub"}
    return url, json.dumps(event, ensure_ascii=False).encode(), headers


def _ntfy(_: Channel, url: str, message: Message) -> tuple[str, bytes, dict[str, str]]:
    """As JSON to the server itself: headers cannot hold every letter."""
    named = urlsplit(url)
    before, _slash, topic = named.path.rstrip("/").rpartition("/")
    resolved = message.what == "resolved"
    content: dict[str, Any] = {
        "topic": topic, "title": f"edgeloop: {message.rule}", "message": message.title,
        "priority": 2 if resolved else PRIORITIES[message.severity],
        "tags": ["white_check_mark" if resolved else TAGS[message.severity]],
    }  # fmt: skip
    content |= {"click": message.link} if message.link else {}
    address = f"{named.scheme}://{named.netloc}{before}/"
    return address, json.dumps(content, ensure_ascii=False).encode(), {"Content-Type": "application/json"}


def _slack(_: Channel, url: str, message: Message) -> tuple[str, bytes, dict[str, str]]:
    """The text is escaped as Slack asks for it: what a device calls itself mentions nobody."""
    escaped = message.title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = f"{escaped}\n<{message.link}>" if message.link else escaped
    return url, json.dumps({"text": text}, ensure_ascii=False).encode(), {"Content-Type": "application/json"}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat().replace("+00:00", "Z")


FORMS = {"webhook": _cloud_event, "ntfy": _ntfy, "slack": _slack}
