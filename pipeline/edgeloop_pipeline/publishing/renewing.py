"""`edgeloop keys renew`: the same signed anew, before it expires or after the hub lost some of it; and warnings in time."""

from __future__ import annotations

from typing import Any

import click

from edgeloop_contract.errors import NetworkError
from edgeloop_pipeline.publishing import releasing, signing
from edgeloop_pipeline.publishing.hub import Hub


def root(held: signing.Keys, there: Hub) -> str:
    """Root metadata with the same keys, for as long again."""
    told = there.get("/api/v1/signed")
    made = signing.rotated(held, "", None)
    there.post("/api/v1/signed", {"roots": signing.roots_to_send(held, told["roots"], made), "targets": ""})
    new = held.root.signed
    return f"root: version {new.version}, good until {new.expires:%Y-%m-%d}"


def targets(held: signing.Keys, there: Hub) -> str:
    """The same bundles, for as long again."""
    found = signing.current_targets(held, there.get("/api/v1/signed")["targets"])
    releasing.sign(held, there, found, found.targets)
    return f"targets: version {found.version}, good until {found.expires:%Y-%m-%d}"


def after_restore(held: signing.Keys, there: Hub) -> list[str]:
    """Targets above every version that was ever signed, with those bundles that the hub still has; in lines, what was done."""
    found, last = signing.hub_targets(held, there.get("/api/v1/signed")["targets"]), signing.last_targets(held)
    if last is None or last.version <= found.version:
        return [f"{there.address}: has targets version {found.version}, the last that was signed; nothing is lost"]
    here = {row["target"]: row["sha256"] for row in there.get("/api/v1/bundles")}
    listed = {name: file for name, file in last.targets.items() if here.get(name) == file.hashes.get("sha256")}
    lost = sorted(last.targets.keys() - listed.keys())
    found.version = last.version
    releasing.sign(held, there, found, listed)
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
