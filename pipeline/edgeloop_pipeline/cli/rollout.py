"""`edgeloop rollout`: bring a published bundle to the fleet, step by step."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeloop_contract.errors import NetworkError, UsageError
from edgeloop_pipeline.cli.hub_options import EXIT_CODES, ca_option, hub_option, keys_option, open_hub, open_keys, passphrase_option

if TYPE_CHECKING:  # loaded when a command runs
    from edgeloop_contract.gate_messages import GatePower
    from edgeloop_contract.hub_messages import RolloutStatus
    from edgeloop_contract.rollout import GateLimits


@click.group(epilog=EXIT_CODES)
def rollout() -> None:
    """Bring a published bundle to the fleet, step by step."""


@rollout.command(epilog=EXIT_CODES)
@click.argument("target")
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option(
    "--steps", default="25%, 100%", show_default=True, help='Cohorts that grow: "pi-1+pi-2, label:pilot, group:line-3, 25%".'
)
@click.option(
    "--soak-minutes",
    type=float,
    default=60.0,
    show_default=True,
    help="How long each step has to run well before the next one starts.",
)
@click.option(
    "--on-breach",
    type=click.Choice(["halt", "return"]),
    default="halt",
    show_default=True,
    help="Leave the cohort, or send it back.",
)
@click.option("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="Change a gate, such as max_latency_ratio=1.2.")
@click.option("--channel", default="", help="For the devices of this channel; default: the one that TARGET was published for.")
@click.option("--despite-windows", default="", metavar="WHY", help="Also outside of maintenance windows; WHY is kept in the log.")
def start(
    target: str, hub: str, ca_file: str, folder: Path, passphrase: bool, steps: str, soak_minutes: float, on_breach: str,
    gates: tuple[str, ...], channel: str, despite_windows: str,
) -> None:  # fmt: skip
    """Start the first step; the hub's tick starts the next ones."""
    from edgeloop_pipeline.fleet import release, renewal

    limits = gate_limits(gates)
    keys, client = open_keys(folder, passphrase) if on_breach == "return" else None, open_hub(hub, ca_file)
    renewal.warn(client)
    with contextlib.suppress(NetworkError):  # an earlier hub says nothing of it
        _say_power(release.power(client, target, steps, soak_minutes, limits, channel), steps, err=True)
    number = release.start(client, target, steps, soak_minutes, limits, keys, channel, despite_windows)
    click.echo(f"rollout {number} of {target} has begun; edgeloop rollout status {number} shows how it goes")


@rollout.command(epilog=EXIT_CODES)
@click.argument("target")
@hub_option
@ca_option
@click.option("--steps", default="25%, 100%", show_default=True, help="As for start.")
@click.option("--soak-minutes", type=float, default=60.0, show_default=True, help="As for start.")
@click.option("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="As for start.")
def power(target: str, hub: str, ca_file: str, steps: str, soak_minutes: float, gates: tuple[str, ...]) -> None:
    """What each gate could find in each step of such a rollout. Nothing begins."""
    from edgeloop_pipeline.fleet import release

    _say_power(release.power(open_hub(hub, ca_file), target, steps, soak_minutes, gate_limits(gates)), steps)


def _say_power(told: list[GatePower], steps: str, err: bool = False) -> None:
    from edgeloop_contract.rollout import parse_steps

    for number, step in enumerate(parse_steps(steps), 1):
        found = [one for one in told if one.step == number]
        for one in found:
            click.echo(f"  step {number}  {one.gate:18}{one.text}", err=err)
        if not found:
            click.echo(f"  step {number}  no device is in it now ({step}): it waits until one is", err=err)


def gate_limits(words: tuple[str, ...]) -> GateLimits:
    """Raises UsageError for an unknown gate, or a value that it cannot have."""
    import msgspec

    from edgeloop_contract.rollout import GateLimits
    from edgeloop_contract.settings import problems

    limits: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--gate {word!r}: write NAME=NUMBER") from error
    if wrong := problems(limits, GateLimits, "--gate"):
        raise UsageError("; ".join(wrong))
    return msgspec.convert(limits, GateLimits)


@rollout.command(epilog=EXIT_CODES)
@click.argument("number", type=int, required=False)
@hub_option
@ca_option
def status(number: int | None, hub: str, ca_file: str) -> None:
    """One rollout with its gates, or all of them."""
    from edgeloop_pipeline.fleet import renewal

    client = open_hub(hub, ca_file)
    renewal.warn(client)
    if number is None:
        for row in client.rollouts():
            click.echo(f"{row.id:>4}  {row.state:9} step {row.step} of {row.steps}  {row.target}  {row.reason}")
        return
    _show(client.rollout(number))


def _show(status: RolloutStatus) -> None:
    began = f"{datetime.fromtimestamp(status.began, timezone.utc):%Y-%m-%d %H:%M} UTC"
    step = f"step {status.step} of {len(status.steps)}"
    click.echo(f"rollout {status.id} of {status.target}: {status.state}, {step}, since {began}")
    if status.reason:
        click.echo(f"  {status.reason}")
    click.echo(f"  {status.cohort} devices in the cohort, {status.reported} report from the new bundle, {status.failed} failed")
    if status.need_upgrade:
        click.echo(f"  {status.need_upgrade} devices wait for an upgrade of their agent, which cannot read the bundle")
    if status.pinned:
        click.echo(f"  {status.pinned} devices of these steps are pinned to another bundle, and do not get it")
    for gate in status.gates:
        verdict = {True: "BREACHED", False: "holds", None: "waits" if gate.waits else "cannot tell"}[gate.breached]
        click.echo(f"  {gate.gate:18}{verdict:12}{gate.text}")
        if gate.looks:
            many = f"{len(gate.looks)} look{'s' if len(gate.looks) > 1 else ''}"
            click.echo(f"{'':32}{many}; {gate.amount:,.3g} {gate.unit} so far, the next look at {gate.next_look:,.3g}")
        if gate.power:
            click.echo(f"{'':32}{gate.power}")


def _add_verb(verb: str, text: str) -> None:
    @rollout.command(verb, epilog=EXIT_CODES, help=text)
    @click.argument("number", type=int)
    @hub_option
    @ca_option
    def changed(number: int, hub: str, ca_file: str) -> None:
        _show(open_hub(hub, ca_file).change_rollout(number, verb))


for _name, _text in (
    ("pause", "Stop: no further device gets the bundle until the rollout is resumed."),
    ("resume", "Go on, also after a gate halted the rollout."),
    ("abort", "End the rollout. Devices go back to the released bundle, where signed targets allow it."),
):
    _add_verb(_name, _text)
