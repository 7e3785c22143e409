"""What to do about an update: rules over values, without I/O."""

from __future__ import annotations

from dataclasses import dataclass

from edgeloop_agent.updates.journal import Journal, Running, Slot, SlotName
from edgeloop_agent.updates.offers import Offer, SignedTargets
from edgeloop_contract.publications import AGENT, BUNDLE, CONFIG, MAX_CONFIG_BYTES, SHIPPED, kind_of_model


@dataclass(frozen=True)
class Stay:
    """Do nothing. `refused`: the hub asked for something that is not allowed, which is reported as an event."""

    why: str
    refused: bool = False


@dataclass(frozen=True)
class Install:
    """Download and test it. `slot`: where its bytes are already."""

    offer: Offer
    slot: SlotName | None = None


def decide(
    target: str, signed: SignedTargets, running: Running, journal: Journal, max_bundle_bytes: int, agent: str = ""
) -> Stay | Install:  # fmt: skip
    """What to do about the hub's assignment, within the signed metadata. `agent`: this agent's version."""
    if not target:
        return Stay("no target is assigned")
    offer = signed.offers.get(target)
    if offer is None:
        return Stay(f"{target} is not among the signed targets", refused=True)
    if offer.model != running.model:
        return Stay(f"{target} is of model {offer.model or 'unknown'}; here runs {running.model}", refused=True)
    if offer.kind not in (BUNDLE, CONFIG, AGENT, SHIPPED):
        return Stay(f"{target} is a {offer.kind}, which this agent does not know: update edgeloop here", refused=True)
    if offer.sha256 == running.sha256:
        return Stay("it is running already")
    if (bad := journal.rejected(offer.sha256, agent)) is not None:
        return Stay(f"{target} failed here before: {bad.why}")
    if offer.version < running.version and signed.has_sha256(running.sha256):
        return Stay(f"{target} is older than version {running.version}, which is still signed", refused=True)
    kind = kind_of_model(running.model)
    if offer.kind != kind and (offer.kind != SHIPPED or kind == BUNDLE):
        return Stay(f"{target} is a {offer.kind}, which {running.model} is not", refused=True)
    if offer.kind == CONFIG:
        max_bundle_bytes = MAX_CONFIG_BYTES
    if offer.bytes > max_bundle_bytes:
        return Stay(f"{target} has {offer.bytes} bytes; the limit here is {max_bundle_bytes}", refused=True)
    return Install(offer, _where(journal, offer))


def _where(journal: Journal, offer: Offer) -> SlotName | None:
    held: dict[SlotName, Slot | None] = {"a": journal.a, "b": journal.b}
    return next((name for name, slot in held.items() if slot is not None and slot.sha256 == offer.sha256), None)


def trial_verdict(started: float, now: float, health_seconds: float, answered: int, refused: int) -> str | None:
    """None: the trial continues. "": it is passed. Else why it failed. Times: seconds of a monotonic clock."""
    seen = answered + refused
    if seen >= 20 and refused > seen / 2:
        return f"{refused} of {seen} answers were refusals"
    return "" if now - started >= health_seconds else None
