"""`edgeloop jobs`: log lines, measurements and restarts of devices, as jobs that the targets key signs."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeloop_contract.errors import DeviceError, NetworkError, UsageError
from edgeloop_pipeline.cli.hub_options import EXIT_CODES, ca_option, hub_option, keys_option, open_hub, open_keys, passphrase_option

if TYPE_CHECKING:  # loaded when a command runs
    from edgeloop_contract.signed_jobs import JobAsked, SignedJobStatus
    from edgeloop_pipeline.fleet.hub_client import HubClient

KINDS = click.Choice(["logs", "bench", "restart"])


@click.group(epilog=EXIT_CODES)
def jobs() -> None:
    """Log lines, measurements and restarts of devices: jobs that the targets key signs."""


@jobs.command(epilog=EXIT_CODES)
@click.argument("kind", type=KINDS)
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option("--device", "devices", multiple=True, help="A device, by name; several times for several.")
@click.option("--group", default="", help="All devices of this group of the hub, as they are now.")
@click.option("--target", default="", help="The published bundle that bench measures.")
@click.option("--hours", type=float, default=24.0, show_default=True, help="Until the job ends, done or not; at most 168.")
@click.option("--wait-minutes", type=float, default=15.0, show_default=True, help="For answers; 0: do not wait.")
def send(
    kind: str, hub: str, ca_file: str, folder: Path, passphrase: bool, devices: tuple[str, ...], group: str, target: str,
    hours: float, wait_minutes: float,
) -> None:  # fmt: skip
    """Sign a job of KIND, give it to the hub, and show what devices answer."""
    from edgeloop_pipeline.fleet import job_signing

    if bool(devices) == bool(group):
        raise UsageError("name devices (--device), or a group (--group)")
    if (kind == "bench") != bool(target):
        raise UsageError("--target: bench needs it, and no other job takes it")
    client, keys = open_hub(hub, ca_file), open_keys(folder, passphrase)
    named = list(dict.fromkeys(devices)) or _of_group(client, group)
    numbers = job_signing.send(keys, client, kind, named, target, hours)  # type: ignore[arg-type]
    click.echo(
        f"job {', '.join(map(str, numbers))}: {kind} for {len(named)} devices, until {_when(time.time() + hours * 3600)}", err=True
    )
    if wait_minutes > 0:
        _wait(client, numbers, wait_minutes)


@jobs.command("sign", epilog=EXIT_CODES)
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option("--hours", type=float, default=24.0, show_default=True, help="Until the jobs end, done or not; at most 168.")
@click.option("--yes", is_flag=True, help="Sign all of them without asking: whatever the hub says that people want.")
def sign_wishes(hub: str, ca_file: str, folder: Path, passphrase: bool, hours: float, yes: bool) -> None:
    """Sign what people asked for on the hub's pages, each after a question."""
    from edgeloop_pipeline.fleet import job_signing

    client, keys = open_hub(hub, ca_file), open_keys(folder, passphrase)
    for asked in client.job_wishes():
        named = asked.devices or _of_group(client, asked.group)
        if not yes and not click.confirm(f"{_asked_words(asked, named)}: sign it?"):
            continue
        numbers = job_signing.send(keys, client, asked.kind, named, asked.target, hours)
        client.forget_job_wish(asked.id)
        click.echo(f"job {', '.join(map(str, numbers))}: {_asked_words(asked, named)}")


def _asked_words(asked: JobAsked, named: list[str]) -> str:
    who = f"{len(named)} devices of the group {asked.group}" if asked.group else ", ".join(named)
    return f"{asked.kind} {asked.target + ' ' if asked.target else ''}for {who}, asked by {asked.who} {_when(asked.at)}"


@jobs.command("list", epilog=EXIT_CODES)
@hub_option
@ca_option
def list_jobs(hub: str, ca_file: str) -> None:
    """List the newest jobs, and what waits to be signed."""
    client = open_hub(hub, ca_file)
    for asked in client.job_wishes():
        click.echo(f"not signed     {_asked_words(asked, asked.devices)}")
    for job in client.signed_jobs():
        state = f"{job.devices - job.waiting} of {job.devices} devices have answered"
        click.echo(f"{job.number}  {job.kind:8}{state}, until {_when(job.expires)}  {job.target}")


@jobs.command("show", epilog=EXIT_CODES)
@click.argument("number", type=int)
@hub_option
@ca_option
def show(number: int, hub: str, ca_file: str) -> None:
    """Show what each device made of job NUMBER."""
    _say(open_hub(hub, ca_file).signed_job(number))


def _of_group(client: HubClient, group: str) -> list[str]:
    found: list[str] = []
    while more := client.group_devices(group, found[-1] if found else ""):
        found += more
    return found


def _wait(client: HubClient, numbers: list[int], minutes: float) -> None:
    """Show the answers. Raises NetworkError where some are missing after so many minutes, DeviceError where all refused."""
    deadline = time.monotonic() + minutes * 60
    while any(each.state == "waiting" for number in numbers for each in client.signed_job(number).devices):
        if time.monotonic() > deadline:
            for number in numbers:
                _say(client.signed_job(number))
            raise NetworkError(f"not all have answered within {minutes:g} min; edgeloop jobs show {numbers[0]} shows them later")
        time.sleep(1)
    found = [client.signed_job(number) for number in numbers]
    for each in found:
        _say(each)
    if all(device.state != "done" for each in found for device in each.devices):
        raise DeviceError("no device did it")


def _say(status: SignedJobStatus) -> None:
    import msgspec

    for device in status.devices:
        click.echo(f"{device.device}: {device.state}{f': {device.refused}' if device.refused else ''}")
        for line in device.lines:
            click.echo(f"  {line}")
        if device.measured:
            click.echo(f"  {msgspec.json.encode(device.measured).decode()}")


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M} UTC"
