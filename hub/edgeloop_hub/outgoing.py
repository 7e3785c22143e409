"""Connections from the hub to other servers: through the proxy that the environment names."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3


def pool_for(address: str, **options: Any) -> urllib3.PoolManager:
    asked, proxies = urlsplit(address), getproxies_environment()
    proxy = proxies.get(asked.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass_environment(asked.netloc.rpartition("@")[2], proxies):
        return urllib3.PoolManager(num_pools=1, **options)
    return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)


def failure_words(error: Exception) -> str:
    """What went wrong with a request, without urllib3's own names."""
    cause = getattr(error, "reason", None)
    return str(cause or error).rpartition(">: ")[2] or type(error).__name__
