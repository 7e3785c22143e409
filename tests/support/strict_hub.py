"""A hub with small limits, behind a proxy on this machine, and with one person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubs import Hub, running_hub

PASSWORD = "correct horse battery"
SMALL = (
    "sign_in_tries_per_address=12",
    "request_head_seconds=2",
    "request_body_seconds=3",
    "connections_per_address=40",
    "sample_unpacked_bytes_per_day=100000000",
)


@contextmanager
def strict_hub(folder: Path) -> Iterator[Hub]:
    serve = ("--behind-tls", *(word for limit in SMALL for word in ("--set", limit)))
    with running_hub(folder, serve=serve) as hub:
        hub.run("user", "add", "ada", "--password-stdin", stdin=f"{PASSWORD}\n")
        yield hub
