"""Hosts and addresses of a config that cannot be used, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from edgeloop_agent.addresses import is_http
from edgeloop_agent.config.settings import Config, Output

__all__ = ["problems_of_addresses"]


def problems_of_addresses(config: Config) -> Iterator[str]:
    """Of the API, the hub, tails, and brokers; other addresses are checked with what they belong to."""
    addresses = {f"split.tails[{number}].address": tail.address for number, tail in enumerate(config.split.tails)}
    if config.updates.hub:
        addresses["updates.hub"] = config.updates.hub
    for where, address in addresses.items():
        if not is_http(address):
            yield f"{where}: {address!r} is not an address; write https://HOST, and an IPv6 address in brackets: https://[fd00::1]:8700"
    hosts = {"api.host": config.api.host, "source.host": config.source.host}
    for number, output in enumerate(config.outputs):
        hosts["output.host" if isinstance(config.output, Output) else f"output[{number}].host"] = output.host
    for where, host in hosts.items():
        if host.startswith("["):
            yield f"{where}: {host!r}: here an IPv6 address stands without brackets: {host.strip('[]')}"
