"""Publish a bundle and start its rollout: what the commands and retraining have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeloop_contract.rollout import parse_steps
from edgeloop_pipeline.fleet import tuf_keys
from edgeloop_pipeline.fleet.hub_client import Hub


def publish(held: tuf_keys.Keys, there: Hub, bundle: Path, channel: str) -> tuple[str, int | None]:
    """Sign the bundle and bring it to the hub; its target's name, and how many bytes were sent (None: it is there already)."""
    name, target = tuf_keys.target_of(bundle, channel)
    targets = tuf_keys.current_targets(held, there.get("/api/v1/signed")["targets"])
    if name in targets.targets:
        return name, None
    sent = there.upload(bundle, target.hashes["sha256"])
    sign(held, there, targets, {**targets.targets, name: target})
    return name, sent


def sign(held: tuf_keys.Keys, there: Hub, targets: Any, listed: dict[str, Any]) -> None:
    """Give the hub targets that list just these."""
    targets.targets, targets.version, targets.expires = listed, targets.version + 1, tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
    body = tuf_keys.signed_targets(held, targets, remember=False)
    there.post("/api/v1/signed", {"targets": body.decode()})
    held.keep("trusted.json", body)


def start(
    there: Hub, target: str, steps: str, soak_minutes: float, gates: dict[str, float], held: tuf_keys.Keys | None = None
) -> int:
    """Begin a rollout; its number. `held`: keys, to sign the way back in advance (on_breach return)."""
    fallback = ""
    if held is not None:
        targets = tuf_keys.current_targets(held, there.get("/api/v1/signed")["targets"])
        targets.targets = {n: t for n, t in targets.targets.items() if n != target}
        targets.version, targets.expires = targets.version + 1, tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
        fallback = tuf_keys.signed_targets(held, targets, remember=False).decode()
    plan = {
        "steps": parse_steps(steps), "soak_seconds": soak_minutes * 60, "on_breach": "return" if held else "halt", "gates": gates,
    }  # fmt: skip
    return int(there.post("/api/v1/rollouts", {"target": target, "plan": plan, "fallback": fallback})["id"])
