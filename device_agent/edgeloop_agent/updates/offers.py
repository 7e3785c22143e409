"""The bundles and configs that the signed targets metadata offer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """One signed target: a file's name, size, digest, model and version. A config's model is `config:` and its name."""

    target: str
    bytes: int
    sha256: str
    model: str
    version: int
    kind: str = "bundle"  # or config


@dataclass(frozen=True)
class SignedTargets:
    """All signed targets. `version`: of the targets metadata. `generation`: of the folder that proves it."""

    version: int
    generation: int
    offers: dict[str, Offer]

    def has_sha256(self, sha256: str) -> bool:
        return any(o.sha256 == sha256 for o in self.offers.values())
