"""`edgeloop-hub device`: revoke, tag and pin devices."""

from __future__ import annotations

from typing import Any

import click

from edgeloop_hub.cli_options import EXIT_CODES, existing_hub

COMMAND = "the command line"  # who did it, in events


def _note(database: Any, action: str, name: str, detail: str = "") -> None:
    from edgeloop_hub.auth import audit
    from edgeloop_hub.cli_people import operator

    audit.append(database, operator(), f"device {action}", name, detail)


@click.group(epilog=EXIT_CODES)
def device() -> None:
    """Enrolled devices."""


@device.command("revoke", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
def revoke(context: click.Context, name: str) -> None:
    """Revoke the device's credential. The device goes on with the bundle that it runs."""
    from edgeloop_hub import event_log
    from edgeloop_hub.auth import accounts

    with existing_hub(context).database.writing() as database:
        accounts.revoke(database, name)
        event_log.record(database, "revoked", name)
        _note(database, "revoke", name)
    click.echo(f"{name}: revoked")


@device.command("tag", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("tags", nargs=-1)
@click.pass_context
def tag_device(context: click.Context, name: str, tags: tuple[str, ...]) -> None:
    """Give the device these TAGS instead of those before; without TAGS it has none. Labels of the enrolment stay."""
    from edgeloop_hub.fleet import marks

    with existing_hub(context).database.writing() as database:
        given = marks.tag(database, name, tags, COMMAND)
        _note(database, "tags", name, " ".join(given))
    click.echo(f"{name}: {', '.join(given) or 'no tags'}")


@device.command("pin", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("target", required=False)
@click.pass_context
def pin_device(context: click.Context, name: str, target: str | None) -> None:
    """Offer the device the bundle TARGET and no other, whatever is rolled out. Without TARGET: end that."""
    from edgeloop_hub.fleet import marks

    with existing_hub(context).database.writing() as database:
        if target is None:
            marks.unpin(database, name, COMMAND)
        else:
            marks.pin(database, name, target, COMMAND)
        _note(database, "pin" if target else "unpin", name, target or "")
    click.echo(f"{name}: pinned to {target}" if target else f"{name}: follows rollouts again")


@device.command("channel", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("channel", required=False)
@click.pass_context
def device_channel(context: click.Context, name: str, channel: str | None) -> None:
    """Give the device this CHANNEL, whatever its groups say. Without CHANNEL it follows them again."""
    from edgeloop_hub.groups import store

    with existing_hub(context).database.writing() as database:
        now = store.set_channel(database, name, channel or "", COMMAND)
        _note(database, "channel", name, channel or "")
    click.echo(f"{name}: follows the channel {now}")


@device.command("delete", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
def delete(context: click.Context, name: str) -> None:
    """Delete the device with its credential and reports. Samples, labels, events and the audit log stay."""
    from edgeloop_hub.fleet import removal

    database = existing_hub(context).database
    with database.writing() as connection:
        removal.remove(connection, name, COMMAND)
        _note(connection, "delete", name)
    removal.forget_reports(database, name)
    click.echo(f"{name}: deleted")
