"""The bundles and configs that the signed targets metadata offer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from edgeloop_contract.needs import AgentNeeds
from edgeloop_contract.publications import DELTA
from edgeloop_contract.wheelhouse import MAX_MANIFEST_BYTES


class SignedManifest(msgspec.Struct, frozen=True):
    """Bytes and digest of a wheelhouse's list of wheels."""

    bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_MANIFEST_BYTES)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}(?!\n)$")]


@dataclass(frozen=True)
class Offer:
    """One signed target: a file's name, size, digest, model and version. The model of a config is `config:` and its name, of an
    agent `agent:` and its name."""

    target: str
    bytes: int
    sha256: str
    model: str
    version: int
    kind: str = "bundle"  # or config, agent, return-to-shipped
    needs: AgentNeeds | None = None  # of an agent
    manifest: SignedManifest | None = None  # of an agent, where its publisher signed it


@dataclass(frozen=True)
class Delta:
    """A signed delta: with the bundle that has `from_sha256` it gives the target `to`."""

    target: str
    bytes: int
    sha256: str
    from_sha256: str
    to: str

    @property
    def file(self) -> Offer:
        """As a file that is downloaded."""
        return Offer(self.target, self.bytes, self.sha256, "", 0, DELTA)


@dataclass(frozen=True)
class SignedTargets:
    """All signed targets. `version`: of the targets metadata. `generation`: of the folder that proves it."""

    version: int
    generation: int
    offers: dict[str, Offer]
    deltas: dict[tuple[str, str], Delta] = field(default_factory=dict)  # by target and the digest of the bundle it starts from

    def has_sha256(self, sha256: str) -> bool:
        return any(o.sha256 == sha256 for o in self.offers.values())
