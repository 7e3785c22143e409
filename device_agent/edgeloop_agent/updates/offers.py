"""The bundles that the signed targets metadata offer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """One signed target: a bundle's file name, size, digest, model and version."""

    target: str
    bytes: int
    sha256: str
    model: str
    version: int


@dataclass(frozen=True)
class SignedTargets:
    """All signed targets. `version`: of the targets metadata. `generation`: of the folder that proves it."""

    version: int
    generation: int
    offers: dict[str, Offer]

    def has_sha256(self, sha256: str) -> bool:
        return any(o.sha256 == sha256 for o in self.offers.values())
