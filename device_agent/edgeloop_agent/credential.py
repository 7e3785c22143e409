"""The device's credential at its hub, as `edgeloop-agent enrol` keeps it."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["Credential", "secret_for"]


class Credential(msgspec.Struct, frozen=True):
    """What makes this device known to its hub. The file is readable by the agent alone."""

    hub: str
    device: str
    secret: str


def secret_for(hub: str, path: Path) -> str:
    """The secret that the device got when it enrolled at `hub`; "" where it did not, or enrolled at another hub."""
    try:
        credential = msgspec.json.decode(path.read_bytes(), type=Credential)
    except (OSError, msgspec.MsgspecError):
        return ""
    return credential.secret if credential.hub == hub else ""
