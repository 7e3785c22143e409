"""What an agent, published for devices, needs of them."""

from __future__ import annotations

from typing import Annotated

import msgspec

__all__ = ["AgentNeeds", "Bytes", "Text"]

Text = Annotated[str, msgspec.Meta(max_length=200)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class AgentNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What a device must know before it downloads an agent; it is signed with the target.

    `version`: of the agent. `python`: such as 3.11. `machine`: such as aarch64; "": any. `glibc`: the oldest that all wheels run
    with; "": any. `reads`: the newest schema of bundles that the agent reads. `journal`: the oldest format of journals that reads
    what it writes. `unpacked_bytes`: of all files.
    """

    version: Text
    python: Annotated[str, msgspec.Meta(pattern=r"^3\.[0-9]{1,2}(?!\n)$")]
    machine: Text
    glibc: Annotated[str, msgspec.Meta(pattern=r"^(2\.[0-9]{1,3})?(?!\n)$")]
    reads: int
    journal: int
    unpacked_bytes: Bytes
