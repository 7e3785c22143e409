"""`edgeloop keys renew` and `rotate`: sign the same metadata anew, or with another key; and warnings in time."""

from __future__ import annotations

from typing import Literal

import click
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from edgeloop_contract.errors import DataError, NetworkError
from edgeloop_contract.hub_messages import MetadataUpload
from edgeloop_pipeline.fleet import release, tuf_keys
from edgeloop_pipeline.fleet.hub_client import HubClient


def rotate(keys: tuf_keys.Keys, hub: HubClient, role: Literal["root", "targets", "online"]) -> str:
    """Replace a role's key, or send the replacement that the hub never got; returns what was done, in words."""
    if role not in finished(keys, hub):
        signed, body = hub.signed(), ""
        targets = tuf_keys.current_targets(keys, signed.targets)
        made = tuf_keys.rotated(keys, role, tuf_keys.online_key(hub.public_key()) if role == "online" else None)
        if role == "targets":
            targets.version, targets.expires = targets.version + 1, tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
            body = tuf_keys.signed_targets(keys, targets).decode()
        hub.publish(MetadataUpload(tuf_keys.roots_to_send(keys, signed.roots, made), body))
    return f"{role}: a new key, in root version {keys.root.signed.version}; the old one counts no more"


def finished(keys: tuf_keys.Keys, hub: HubClient) -> list[str]:
    """Send a root that the hub never got, with the targets that only its key signed: the hub was away when they were made.

    Returns the roles whose keys change by it. What is signed is what this folder knows, and never what the hub shows.
    """
    signed = hub.signed()
    there = Metadata[Root].from_bytes(signed.roots[0].encode()).signed if signed.roots else None
    here = keys.root
    if there is None or there.version >= here.signed.version:
        return []
    changed = [role for role in tuf_keys.ROLES if there.roles[role].keyids != here.signed.roles[role].keyids]
    body = _targets_by_new_key(keys).decode() if "targets" in changed else ""
    hub.publish(MetadataUpload(tuf_keys.roots_to_send(keys, signed.roots, here.to_bytes()), body))
    return ["online" if role in tuf_keys.ONLINE else role for role in changed]


def _targets_by_new_key(keys: tuf_keys.Keys) -> bytes:
    """The targets that were signed last with this folder of keys, by the newest key: signed now where that was cut off.

    Raises DataError where the folder does not know them.
    """
    path, last = keys.folder / "trusted.json", tuf_keys.last_targets(keys)
    if last is None:
        raise DataError(f"{path}: cannot be read, and the hub does not know the new key yet; bring the file back")
    try:
        found: Metadata[Targets] = Metadata.from_bytes(path.read_bytes())
        keys.root.signed.verify_delegate("targets", found.signed_bytes, found.signatures)
    except RepositoryError:
        last.version, last.expires = last.version + 1, tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
        return tuf_keys.signed_targets(keys, last)
    return found.to_bytes()


def root(keys: tuf_keys.Keys, hub: HubClient) -> str:
    """Root metadata with the same keys, for as long again; returns what was done, in words."""
    finished(keys, hub)
    signed = hub.signed()
    body = tuf_keys.rotated(keys, "", None)
    hub.publish(MetadataUpload(roots=tuf_keys.roots_to_send(keys, signed.roots, body)))
    new = keys.root.signed
    return f"root: version {new.version}, good until {new.expires:%Y-%m-%d}"


def targets(keys: tuf_keys.Keys, hub: HubClient) -> str:
    """The same bundles, for as long again; returns what was done, in words."""
    finished(keys, hub)
    current = tuf_keys.current_targets(keys, hub.signed().targets)
    release.sign(keys, hub, current, current.targets)
    return f"targets: version {current.version}, good until {current.expires:%Y-%m-%d}"


def after_restore(keys: tuf_keys.Keys, hub: HubClient) -> list[str]:
    """Sign targets above every version that was ever signed, with those bundles that the hub still has; in lines, what was done."""
    current, last = tuf_keys.hub_targets(keys, hub.signed().targets), tuf_keys.last_targets(keys)
    if last is None or last.version <= current.version:
        return [f"{hub.address}: has targets version {current.version}, the last that was signed; nothing is lost"]
    here = {bundle.target: bundle.sha256 for bundle in hub.bundles()}
    listed = {name: file for name, file in last.targets.items() if here.get(name) == file.hashes.get("sha256")}
    lost = sorted(last.targets.keys() - listed.keys())
    current.version = last.version
    release.sign(keys, hub, current, listed)
    lines = [f"targets: version {current.version}, with {len(listed)} bundles; devices follow at their next poll"]
    return lines + [f"lost by the hub: {name}; publish its bundle again" for name in lost]


def warn(hub: HubClient) -> None:
    """Print the hub's warnings on standard error. A hub of an earlier release has none."""
    try:
        health = hub.health()
    except NetworkError:
        return
    for warning in health.warnings:
        click.echo(f"edgeloop: warning: {warning.text}", err=True)
