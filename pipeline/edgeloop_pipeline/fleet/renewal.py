"""`edgeloop keys renew`: sign the same metadata anew, before they expire or after the hub lost some; and warnings in time."""

from __future__ import annotations

import click

from edgeloop_contract.errors import NetworkError
from edgeloop_contract.hub_messages import MetadataUpload
from edgeloop_pipeline.fleet import release, tuf_keys
from edgeloop_pipeline.fleet.hub_client import HubClient


def root(keys: tuf_keys.Keys, hub: HubClient) -> str:
    """Root metadata with the same keys, for as long again; returns what was done, in words."""
    signed = hub.signed()
    body = tuf_keys.rotated(keys, "", None)
    hub.publish(MetadataUpload(roots=tuf_keys.roots_to_send(keys, signed.roots, body)))
    new = keys.root.signed
    return f"root: version {new.version}, good until {new.expires:%Y-%m-%d}"


def targets(keys: tuf_keys.Keys, hub: HubClient) -> str:
    """The same bundles, for as long again; returns what was done, in words."""
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
