"""`edgeloop keys renew`: the same signed anew, before it expires or after the hub lost some of it; and warnings in time."""

from __future__ import annotations

from typing import Any

import click

from edgeloop_contract.errors import NetworkError
from edgeloop_pipeline.fleet import release, tuf_keys
from edgeloop_pipeline.fleet.hub_client import Hub


def root(held: tuf_keys.Keys, there: Hub) -> str:
    """Root metadata with the same keys, for as long again."""
    told = there.get("/api/v1/signed")
    made = tuf_keys.rotated(held, "", None)
    there.post("/api/v1/signed", {"roots": tuf_keys.roots_to_send(held, told["roots"], made), "targets": ""})
    new = held.root.signed
    return f"root: version {new.version}, good until {new.expires:%Y-%m-%d}"


def targets(held: tuf_keys.Keys, there: Hub) -> str:
    """The same bundles, for as long again."""
    found = tuf_keys.current_targets(held, there.get("/api/v1/signed")["targets"])
    release.sign(held, there, found, found.targets)
    return f"targets: version {found.version}, good until {found.expires:%Y-%m-%d}"


def after_restore(held: tuf_keys.Keys, there: Hub) -> list[str]:
    """Targets above every version that was ever signed, with those bundles that the hub still has; in lines, what was done."""
    found, last = tuf_keys.hub_targets(held, there.get("/api/v1/signed")["targets"]), tuf_keys.last_targets(held)
    if last is None or last.version <= found.version:
        return [f"{there.address}: has targets version {found.version}, the last that was signed; nothing is lost"]
    here = {row["target"]: row["sha256"] for row in there.get("/api/v1/bundles")}
    listed = {name: file for name, file in last.targets.items() if here.get(name) == file.hashes.get("sha256")}
    lost = sorted(last.targets.keys() - listed.keys())
    found.version = last.version
    release.sign(held, there, found, listed)
    said = [f"targets: version {found.version}, with {len(listed)} bundles; devices follow at their next poll"]
    return said + [f"lost by the hub: {name}; publish its bundle again" for name in lost]


def warn(there: Hub) -> None:
    """On standard error, what the hub says that somebody should do. An earlier hub says nothing."""
    try:
        told: dict[str, Any] = there.get("/api/v1/health")
    except NetworkError:
        return
    for warning in told.get("warnings", []):
        click.echo(f"edgeloop: warning: {warning['text']}", err=True)
