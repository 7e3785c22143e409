"""HTTP connections to other machines, through the proxy that the environment names, or directly."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from edgeloop_agent.addresses import is_http, is_loopback
from edgeloop_contract.errors import UsageError

DEFAULT_SECONDS = 60.0


@contextlib.contextmanager
def _within(seconds: float, sock: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Cut the socket off after `seconds`: its own timeout begins anew with each byte. Raises TimeoutError then."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        if (found := sock()) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)  # of TLS too, whose own would take the reader's state away

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if late.is_set() and not isinstance(error, urllib3.exceptions.HTTPError):
            raise TimeoutError(f"no whole answer within {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


class _WholeHead:
    """Its proxy and its other side have the read timeout for the head of an answer as a whole."""

    timeout: Any
    sock: Any

    def connect(self) -> None:
        with _within(self._seconds(), lambda: self.sock):
            super().connect()  # type: ignore[misc]

    def getresponse(self) -> Any:
        with _within(self._seconds(), lambda: self.sock):
            return super().getresponse()  # type: ignore[misc]

    def _seconds(self) -> float:
        return self.timeout if isinstance(self.timeout, float | int) and self.timeout > 0 else DEFAULT_SECONDS


class _Connection(_WholeHead, HTTPConnection):
    pass


class _SecureConnection(_WholeHead, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _with_deadlines(manager: urllib3.PoolManager, head_deadline: bool) -> urllib3.PoolManager:
    if head_deadline:
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


def pool(address: str, use_proxies: bool = True, head_deadline: bool = False, **options: Any) -> urllib3.PoolManager:
    """For requests to `address`, by HTTPS_PROXY, HTTP_PROXY and NO_PROXY where `use_proxies`. Raises UsageError for a bad proxy.

    `options`: of urllib3. `head_deadline`: its read timeout holds for the head of an answer as a whole, however slowly that comes;
    it costs a thread for each request.
    """
    proxy = proxy_of(address) if use_proxies else ""
    if not proxy:
        return _with_deadlines(urllib3.PoolManager(**options), head_deadline)
    if not is_http(proxy):
        raise UsageError(
            f"the proxy {shown(proxy)} of the environment is no http:// or https:// address; correct it, or set NO_PROXY"
        )
    named = urlsplit(proxy)
    secret = f"{unquote(named.username)}:{unquote(named.password or '')}" if named.username else None
    headers = urllib3.make_headers(proxy_basic_auth=secret) if secret else None
    plain = proxy.replace(f"{named.netloc}", named.netloc.rpartition("@")[2], 1)
    return _with_deadlines(urllib3.ProxyManager(plain, proxy_headers=headers, **options), head_deadline)


def plain(error: Exception) -> str:
    """What a library says of a failed request, without its objects: "… [Errno 111] Connection refused"."""
    if isinstance(error, urllib3.exceptions.ProxyError):
        return f"the proxy of the environment cannot be used: {plain(error.original_error)}"
    text = str(getattr(error, "reason", None) or error)
    return re.sub(r"^(?:<[^>]*>|\w+\(.*?\)): ", "", text) or type(error).__name__


def proxy_of(address: str) -> str:
    """The proxy that the environment names for this address; "" for none, and for this machine itself."""
    asked = urlsplit(address)
    host = asked.hostname or ""
    proxies = getproxies_environment()
    proxy = proxies.get(asked.scheme) or proxies.get("all") or ""
    if (
        not proxy
        or is_here(address)
        or proxy_bypass_environment(asked.netloc.rpartition("@")[2], proxies)
        or _in_network(host, proxies)
    ):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def shown(proxy: str) -> str:
    """The proxy's address without user and password."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('/')[0]}"


def is_here(address: str) -> bool:
    """Whether the address is this machine itself."""
    return is_loopback(urlsplit(address).hostname or "")


def _in_network(host: str, proxies: dict[str, str]) -> bool:
    """NO_PROXY may name networks, such as 10.0.0.0/8: the standard library does not know these."""
    try:
        where = ipaddress.ip_address(host)
    except ValueError:
        return False
    for entry in proxies.get("no", "").split(","):
        try:
            if "/" in entry and where in ipaddress.ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
