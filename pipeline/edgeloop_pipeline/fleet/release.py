"""Publish a bundle and start its rollout: what the commands and retraining have in common."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tuf.api.metadata import TargetFile, Targets

from edgeloop_contract.errors import UsageError
from edgeloop_contract.gate_messages import GatePower
from edgeloop_contract.hub_messages import MetadataUpload, RolloutRequest
from edgeloop_contract.publications import AGENT_MODEL, CONFIG_MODEL, SHIPPED
from edgeloop_contract.rollout import GateLimits, RolloutPlan, parse_steps
from edgeloop_pipeline.fleet import deltas, tuf_keys
from edgeloop_pipeline.fleet.hub_client import HubClient


def publish(
    keys: tuf_keys.Keys, hub: HubClient, bundle: Path, channel: str, delta: bool = True
) -> tuple[str, int | None]:  # fmt: skip
    """Sign the bundle and send it to the hub; its target's name, and how many bytes were sent (None: the hub has it already).

    `delta`: with one from the last version of this model and channel, where that is worth its bytes.
    """
    name, target = tuf_keys.target_of(bundle, channel)
    targets = tuf_keys.current_targets(keys, hub.signed().targets)
    if name in targets.targets:
        return name, None
    sent = hub.upload(bundle, target.hashes["sha256"])
    listed = {**targets.targets, name: target}
    if delta and (made := _delta(hub, bundle, name, target, targets)) is not None:
        # Of each model the newest version alone has a delta: metadata do not grow with every version.
        older = {n for n, t in targets.targets.items() if n in listed and _model(t) == _model(target)}
        listed = {n: t for n, t in listed.items() if (t.custom or {}).get("to") not in older} | {made[0]: made[1]}
        sent += made[2]
    sign(keys, hub, targets, listed)
    return name, sent


def _model(target: TargetFile) -> tuple[object, object]:
    custom = target.custom or {}
    return custom.get("model"), custom.get("channel")


def _delta(
    hub: HubClient, bundle: Path, name: str, target: TargetFile, targets: Targets
) -> tuple[str, TargetFile, int] | None:  # fmt: skip
    """A delta from the newest earlier version, sent to the hub: its name, what is signed of it, bytes sent."""
    version = (target.custom or {})["version"]
    earlier = [t for t in targets.targets.values() if _model(t) == _model(target) and (t.custom or {})["version"] < version]
    newest = max(earlier, key=lambda t: int((t.custom or {})["version"]), default=None)
    if newest is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        old, made = Path(folder) / "old.edgeloop", Path(folder) / "made.delta"
        old.write_bytes(hub.target_file(f"{newest.hashes['sha256']}.{newest.path}"))
        if hashlib.sha256(old.read_bytes()).hexdigest() != newest.hashes["sha256"]:
            return None
        content = deltas.make(old, bundle)
        if content is None:
            return None
        made.write_bytes(content)
        delta_name, delta_target = deltas.target_of(content, newest.hashes["sha256"], name)
        return delta_name, delta_target, hub.upload(made, delta_target.hashes["sha256"])


def without(targets: Targets, target: str) -> dict[str, TargetFile]:
    """What is listed without a target, and without the deltas to it."""
    return {n: t for n, t in targets.targets.items() if target not in (n, (t.custom or {}).get("to"))}


def publish_config(keys: tuf_keys.Keys, hub: HubClient, path: Path, name: str, channel: str) -> tuple[str, int | None]:
    """Sign a device's config as the next version of its name, and send it to the hub. Answers as `publish`. Raises UsageError."""
    from edgeloop_agent.config import check_for_rollout

    config = check_for_rollout(path)
    if config.updates.config != name:
        found = config.updates.config or "not set"
        raise UsageError(f"{path}: updates.config: is {found!r}; write {name!r}, else devices follow it no more")
    return _publish_next(keys, hub, path, CONFIG_MODEL + name, lambda version: tuf_keys.config_target(path, name, version, channel))


def publish_agent(keys: tuf_keys.Keys, hub: HubClient, path: Path, name: str, channel: str) -> tuple[str, int | None]:
    """Sign a wheelhouse as the next version of its name, and send it to the hub. Answers as `publish`. Raises BundleError."""
    return _publish_next(keys, hub, path, AGENT_MODEL + name, lambda version: tuf_keys.agent_target(path, name, version, channel))


def _publish_next(
    keys: tuf_keys.Keys, hub: HubClient, path: Path, model: str, target_for: Callable[[int], tuple[str, TargetFile]]
) -> tuple[str, int | None]:  # fmt: skip
    targets = tuf_keys.current_targets(keys, hub.signed().targets)
    newest, version = _newest_and_next(hub, targets, model)
    target_name, target = target_for(version)
    if newest is not None and newest.hashes["sha256"] == target.hashes["sha256"]:
        return newest.path, None
    sent = hub.upload(path, target.hashes["sha256"])
    sign(keys, hub, targets, {**targets.targets, target_name: target})
    return target_name, sent


def publish_shipped(keys: tuf_keys.Keys, hub: HubClient, model: str, channel: str) -> tuple[str, int | None]:
    """Sign that devices go back to what they were shipped with, as the next version of an agent or a config. Answers as `publish`.

    Raises UsageError.
    """
    targets = tuf_keys.current_targets(keys, hub.signed().targets)
    newest, version = _newest_and_next(hub, targets, model)
    if newest is not None and (newest.custom or {}).get("kind") == SHIPPED:
        return newest.path, None
    name, target, content = tuf_keys.shipped_target(model, version, channel)
    if newest is None:
        raise UsageError(f"{model}: nothing is published under this name, so no device left what it was shipped with")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        sent = hub.upload(file, target.hashes["sha256"])
    sign(keys, hub, targets, {**targets.targets, name: target})
    return name, sent


def _newest_and_next(hub: HubClient, targets: Targets, model: str) -> tuple[TargetFile | None, int]:
    """The newest signed version under a name, and the number of the next one."""
    mine = [t for t in targets.targets.values() if (t.custom or {}).get("model") == model]
    published = [b.version for b in hub.bundles() if b.model == model]  # those that were withdrawn too
    return max(mine, key=lambda t: int((t.custom or {})["version"]), default=None), max(published, default=0) + 1


def sign(keys: tuf_keys.Keys, hub: HubClient, targets: Targets, listed: Mapping[str, TargetFile]) -> None:
    """Sign targets that list just these files, and give them to the hub."""
    targets.targets, targets.version = dict(listed), targets.version + 1
    targets.expires = tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
    body = tuf_keys.signed_targets(keys, targets, remember=False)
    hub.publish(MetadataUpload(targets=body.decode()))
    keys.keep("trusted.json", body)


def start(
    hub: HubClient, target: str, steps: str, soak_minutes: float, gates: GateLimits, keys: tuf_keys.Keys | None = None,
    channel: str = "", despite_windows: str = "",
) -> int:  # fmt: skip
    """Begin a rollout; returns its number. `keys`: to sign the way back in advance (on_breach return). Raises UsageError.

    `channel`: whose devices get it, where that is not the one of its publishing. `despite_windows`: why it comes outside of
    maintenance windows too.
    """
    fallback = ""
    if keys is not None:
        targets = tuf_keys.current_targets(keys, hub.signed().targets)
        targets.targets = without(targets, target)
        targets.version, targets.expires = targets.version + 1, tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
        fallback = tuf_keys.signed_targets(keys, targets, remember=False).decode()
    plan = RolloutPlan(parse_steps(steps), soak_minutes * 60, gates, "return" if keys else "halt", despite_windows)
    return hub.start_rollout(RolloutRequest(target, plan, fallback, channel))


def power(
    hub: HubClient, target: str, steps: str, soak_minutes: float, gates: GateLimits, channel: str = ""
) -> list[GatePower]:  # fmt: skip
    """What each gate can find, in each step of such a rollout. Raises UsageError."""
    return hub.rollout_power(RolloutRequest(target, RolloutPlan(parse_steps(steps), soak_minutes * 60, gates), channel=channel))
