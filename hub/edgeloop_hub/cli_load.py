"""`edgeloop-hub load`: how much a hub bears, with test devices that are removed after it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import click

from edgeloop_contract.errors import GateError, NetworkError, UsageError

EXIT_CODES = """\b
Exit codes: 0 done · 1 test devices are left · 2 wrong usage · 8 the hub refuses, or does not answer · 130 interrupted"""
QUOTA = "429: one device may send so many reports an hour (report_quota_per_hour); take more --devices, or raise it for the load"


@click.command("load", epilog=EXIT_CODES)
@click.argument("address", envvar="EDGELOOP_HUB")
@click.option("--devices", "count", type=click.IntRange(1, 20_000), default=100, show_default=True, help="Test devices to enrol.")
@click.option(
    "--connections", type=click.IntRange(1, 500), default=32, show_default=True, help="Requests that are under way at once."
)
@click.option("--minutes", type=click.FloatRange(0.01, 1440), default=1.0, show_default=True, help="How long.")
@click.option(
    "--rate", type=click.FloatRange(0, 100_000), default=0.0, help="Requests a second; without it as fast as they are answered."
)
@click.option("--only", type=click.Choice(["reports", "polls"]), help="One kind of request; without it as many of each.")
@click.option("--drift", is_flag=True, help="A drift report in each report.")
@click.option("--despite-devices", "why", default="", metavar="WHY", help="Load a hub that has other devices; WHY is audited.")
@click.option("--clean", is_flag=True, help="Remove test devices that a load left, and do nothing else.")
def load(
    address: str, count: int, connections: int, minutes: float, rate: float, only: str | None, drift: bool, why: str, clean: bool
) -> None:  # fmt: skip
    """Load the hub at ADDRESS with test devices.

    They are enrolled with the token of $EDGELOOP_HUB_TOKEN (scope admin), send heartbeats and polls, and are removed, also after
    Ctrl-C.
    """
    from edgeloop_hub.load.connection import Address
    from edgeloop_hub.load.devices import Operator
    from edgeloop_hub.load.run import KINDS, Plan

    token = os.environ.get("EDGELOOP_HUB_TOKEN", "")
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError("set EDGELOOP_HUB_TOKEN to a token of edgeloop-hub token api NAME --scope admin")
    operator = Operator(Address.of(address), token)
    plan = Plan(connections, 60 * minutes, rate, (only,) if only else KINDS, drift)
    asyncio.run(_clean(operator) if clean else _run(operator, count, plan, why))


async def _clean(operator: Any) -> None:
    from edgeloop_hub.load import devices

    names = await devices.left_over(operator)
    left = await devices.remove(operator, names)
    await operator.close()
    click.echo(f"{len(names) - len(left)} test devices removed")
    if left:
        raise GateError(f"{operator.address}: {len(left)} test devices are left, such as {left[0]}; run this again")


async def _run(operator: Any, count: int, plan: Any, why: str) -> None:
    from edgeloop_hub.load import devices
    from edgeloop_hub.load.run import load

    stop = asyncio.Event()
    interrupted = _stop_at_signals(stop)
    if not why:
        await devices.check_empty(operator)
    made: dict[str, str] = {}
    try:
        await devices.enrol(operator, count, why or "edgeloop-hub load", made, stop)
        click.echo(f"{len(made)} test devices enrolled, with the label {devices.LABEL}", err=True)
        result = await load(operator.address, list(made.values()), plan, stop) if made and not stop.is_set() else None
    finally:
        left = await devices.remove(operator, list(made))
        await operator.close()
    if result is not None:
        _say(result, plan)
    click.echo(f"{len(made) - len(left)} test devices removed", err=True)
    if left:
        raise GateError(f"{operator.address}: {len(left)} test devices are left, such as {left[0]}; load --clean removes them")
    if interrupted:
        raise KeyboardInterrupt
    if result is not None and not any(figures.answered for figures in result.figures.values()):
        raise NetworkError(f"{operator.address}: it answered no request of the load")


def _stop_at_signals(stop: asyncio.Event) -> list[int]:
    """The first signal ends the load, and the devices are removed; the list then has it. The second one ends at once."""
    came: list[int] = []
    loop = asyncio.get_running_loop()

    def ended(number: int) -> None:
        came.append(number)
        stop.set()
        loop.remove_signal_handler(number)
        click.echo("edgeloop-hub: the load ends, and its test devices are removed (interrupt again to leave them)", err=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended, number)
    return came


def _say(result: Any, plan: Any) -> None:
    for kind, figures in result.figures.items():
        for line in figures.lines(kind, result.seconds):
            click.echo(line)
        if 429 in figures.refused:
            click.echo(QUOTA, err=True)
    own = result.cpu_seconds / result.seconds if result.seconds else 0.0
    click.echo(f"{plan.connections} connections, {result.seconds:.0f} s; this command took {own:.0%} of one core")
