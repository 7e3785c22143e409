"""Bytes of a signed file from the address that a hub redirects to, such as an object store's. Nothing here is trusted."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urljoin, urlsplit

import urllib3

from edgeloop_agent.addresses import is_http, is_loopback
from edgeloop_agent.connection_pool import plain, pool
from edgeloop_contract.errors import NetworkError

STATUSES = (301, 302, 303, 307, 308)
OUT_OF_DATE = (400, 401, 403)  # how stores answer to an address that has expired
MAX_REDIRECTS = 3


class OutOfDate(NetworkError):
    """The address no longer holds; the hub can sign another one."""


class Redirects:
    """Follows a hub's redirects, without its credential. `hub`: the hub's address; `ca_file` counts beside the public authorities.

    https alone, or http where the hub's own address is http; and this machine only where the hub is this machine.
    """

    def __init__(self, hub: str, ca_file: str, use_proxies: bool, timeout: urllib3.Timeout) -> None:
        self._hub = urlsplit(hub)
        self._ca_file = ca_file
        self._use_proxies = use_proxies
        self._timeout = timeout

    def follow(self, begin: str, location: str, headers: dict[str, str]) -> Any:
        """The answer (200 or 206) at `location`, as `begin` named it. Raises OutOfDate, NetworkError."""
        for _ in range(MAX_REDIRECTS):
            address = self._checked(urljoin(begin, location))
            answer = self._ask(address, headers)
            if answer.status in (200, 206):
                return answer
            begin, location = address, answer.headers.get("Location", "")
            answer.close()
            if answer.status not in STATUSES or not location:
                kind = OutOfDate if answer.status in OUT_OF_DATE else NetworkError
                raise kind(f"{_shown(address)}: status {answer.status}")
        raise NetworkError(f"{_shown(begin)}: more than {MAX_REDIRECTS} redirects")

    def _checked(self, address: str) -> str:
        if not is_http(address):
            raise NetworkError("the hub redirects to something that is no http:// or https:// address")
        parts = urlsplit(address)
        if parts.scheme != "https" and self._hub.scheme == "https":
            raise NetworkError(f"{_shown(address)}: the hub redirects to a connection that is not encrypted; it is not followed")
        if is_loopback(parts.hostname or "") and not is_loopback(self._hub.hostname or ""):
            raise NetworkError(f"{_shown(address)}: the hub redirects to this device itself; it is not followed")
        return address

    def _ask(self, address: str, headers: dict[str, str]) -> Any:
        options: dict[str, Any] = {"num_pools": 1, "maxsize": 1, "retries": False, "timeout": self._timeout}
        if address.startswith("https"):
            options["ssl_context"] = ssl.create_default_context()
            if self._ca_file:
                options["ssl_context"].load_verify_locations(self._ca_file)
        try:
            http = pool(address, self._use_proxies, head_deadline=True, **options)
            return http.request("GET", address, headers=headers, preload_content=False, redirect=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise NetworkError(f"{_shown(address)}: {plain(error)}") from error


def _shown(address: str) -> str:
    """Scheme and host alone: the rest lets anybody fetch the file."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
