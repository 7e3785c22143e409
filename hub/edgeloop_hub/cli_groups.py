"""`edgeloop-hub group`: groups of devices, with their channels and maintenance windows."""

from __future__ import annotations

import time

import click

from edgeloop_hub.cli_options import EXIT_CODES, existing_hub

COMMAND = "the command line"  # who did it, in events


@click.group(epilog=EXIT_CODES)
def group() -> None:
    """Groups of devices: their channels and maintenance windows."""


@group.command("set", epilog=EXIT_CODES)
@click.argument("name")
@click.option("--tags", default="", help='Who is in it, by tags: "line-3 and not (spare or lab)".')
@click.option("--device", "devices", multiple=True, help="A device that is in it, by name.")
@click.option("--channel", default="", help="The channel that its devices follow; default: the group says nothing of it.")
@click.option("--window", "windows", multiple=True, metavar="DAYS HOURS", help='When updates may come: "mon-fri 22:00-05:00".')
@click.option("--time-zone", default="UTC", show_default=True, help="Of the windows, such as Europe/Berlin.")
@click.pass_context
def set_group(
    context: click.Context, name: str, tags: str, devices: tuple[str, ...], channel: str, windows: tuple[str, ...], time_zone: str
) -> None:  # fmt: skip
    """Make the group NAME, or say anew what it is."""
    from edgeloop_contract.device_groups import GroupRequest
    from edgeloop_hub.auth import audit
    from edgeloop_hub.cli_people import operator
    from edgeloop_hub.groups import store

    asked = GroupRequest(tags, list(devices), channel, list(windows), time_zone)
    with existing_hub(context).database.writing() as database:
        store.save(database, name, asked, COMMAND)
        audit.append(database, operator(), "group set", name, store.words(asked))
        made = store.find(database, name)
        many = store.count(database, made)
    click.echo(f"{name}: {many} devices; {store.state_words(made, time.time())}")


@group.command("list", epilog=EXIT_CODES)
@click.pass_context
def list_groups(context: click.Context) -> None:
    """List groups, with how many devices are in each."""
    from edgeloop_hub.groups import pins, store

    with existing_hub(context).database.reading() as database:
        for one in store.listed(database):
            more = "".join(f", pinned to {pin.target}" for pin in pins.listed(database, one.name))
            more += (f", channel {one.channel}" if one.channel else "") + f"; {store.state_words(one, time.time())}"
            who = one.tags or ", ".join(store.named_devices(database, one.name)[:5])
            click.echo(f"{one.name:20}  {store.count(database, one)} devices ({who}){more}")


@group.command("show", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
def show(context: click.Context, name: str) -> None:
    """List the devices of the group NAME."""
    from edgeloop_hub.groups import store

    with existing_hub(context).database.reading() as database:
        found, after = store.find(database, name), ""
        while names := store.members(database, found, after):
            click.echo("\n".join(names))
            after = names[-1]


@group.command("pin", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("target")
@click.option("--end", is_flag=True, help="End the pin to TARGET, or of the model TARGET.")
@click.pass_context
def pin_group(context: click.Context, name: str, target: str, end: bool) -> None:
    """Offer the group's devices the bundle TARGET and no other, whatever is rolled out; a pin for each model."""
    from edgeloop_hub.auth import audit
    from edgeloop_hub.cli_people import operator
    from edgeloop_hub.groups import pins

    with existing_hub(context).database.writing() as database:
        if end:
            model = next((pin.model for pin in pins.listed(database, name) if pin.target == target), target)
            target = pins.unpin(database, name, model, COMMAND)
        else:
            model = pins.pin(database, name, target, COMMAND)
        audit.append(database, operator(), "group unpin" if end else "group pin", name, target)
    said = f"its devices of {model} follow rollouts again" if end else f"its devices of {model} are pinned to {target}"
    click.echo(f"{name}: {said}")


@group.command("delete", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
def delete(context: click.Context, name: str) -> None:
    """Delete the group NAME. Its devices stay."""
    from edgeloop_hub.auth import audit
    from edgeloop_hub.cli_people import operator
    from edgeloop_hub.groups import store

    with existing_hub(context).database.writing() as database:
        store.remove(database, name, COMMAND)
        audit.append(database, operator(), "group deleted", name)
    click.echo(f"{name}: deleted")
