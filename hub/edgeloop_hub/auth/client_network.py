"""The network that a limit counts by."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """An IPv4 address, or the /64 network of an IPv6 one, which belongs to one subscriber; anything else as it is."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
