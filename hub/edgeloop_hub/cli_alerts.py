"""`edgeloop-hub alerts`: check alerts.toml, try each channel, list what is open."""

from __future__ import annotations

from pathlib import Path

import click

from edgeloop_contract.errors import GateError, UsageError
from edgeloop_hub.cli_options import EXIT_CODES, existing_hub


@click.group(epilog=EXIT_CODES)
def alerts() -> None:
    """Who is told what: alerts.toml in the hub's folder (docs/alerts.md)."""


@alerts.command("check", epilog=EXIT_CODES)
@click.pass_context
def check(context: click.Context) -> None:
    """Check alerts.toml and its secrets, and list the channels."""
    from edgeloop_hub.alerts import settings

    hub = existing_hub(context)
    told = settings.load(hub.settings.data)
    for channel in told.channel:
        rules = ", ".join(channel.rules) or "all rules"
        quiet = f", quiet {channel.quiet} {told.time_zone} below {channel.quiet_below}" if channel.quiet else ""
        click.echo(f"{channel.name}: {channel.kind}, from {channel.min_severity} on, {rules}{quiet}")
    if not told.channel:
        click.echo(f"{hub.settings.data / settings.FILE}: no channel; nobody is told anything")


@alerts.command("test", epilog=EXIT_CODES)
@click.argument("channel", required=False)
@click.pass_context
def test(context: click.Context, channel: str | None) -> None:
    """Send one message through each channel, or through CHANNEL, and say what came of it."""
    from edgeloop_contract.settings import nearest
    from edgeloop_hub.alerts import sender, settings
    from edgeloop_hub.alerts.result import Unsent

    folder = existing_hub(context).settings.data
    told = settings.load(folder)
    chosen = [one for one in told.channel if channel in (None, one.name)]
    if channel is not None and not chosen:
        raise UsageError(f"there is no channel {channel[:80]!r}{nearest(channel, [one.name for one in told.channel])}")
    if not chosen:
        raise UsageError(f"{folder / settings.FILE}: no channel; docs/alerts.md shows one")
    failed = []
    for one in chosen:
        try:
            sender.send(one, folder, sender.trial(told))
            click.echo(f"{one.name}: sent")
        except Unsent as error:
            click.echo(f"{one.name}: not sent: {error}")
            failed.append(one.name)
    if failed:
        raise GateError(f"alerts: not sent by {', '.join(failed)}; correct alerts.toml, or look at the receiver")


@alerts.command("list", epilog=EXIT_CODES)
@click.pass_context
def listed(context: click.Context) -> None:
    """List what is open, the oldest first, as the last tick saw it."""
    from edgeloop_hub.alerts.cycle import open_alerts
    from edgeloop_hub.time_text import when

    with existing_hub(context).database.reading() as database:
        for alert in open_alerts(database):
            told = f"told {when(alert.told)}" if alert.told else "not told yet"
            click.echo(f"{alert.severity:7}  {alert.cause}  since {when(alert.began)}, {told}: {alert.text}")


@alerts.command("files", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def files(folder: Path) -> None:
    """Write Prometheus' alert rules and Grafana's dashboard into FOLDER."""
    from edgeloop_contract.files import publish
    from edgeloop_hub import monitoring

    folder.mkdir(parents=True, exist_ok=True)
    for source in monitoring.FILES:
        publish(folder / source.name, source.read_bytes())
        click.echo(folder / source.name)
