"""`edgeloop keys`, `publish`, `withdraw`, `rollout`, `bench`, `export-updates` and `export-triton`."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from edgeloop_contract.errors import DeviceError, NetworkError, UsageError

EXIT_CODES = """\b
Exit codes: 0 done · 2 wrong usage · 3 what the hub has is wrong · 5 a bundle · 7 disk or folder · 8 the hub is away or refuses"""
hub_option = click.option(
    "--hub", required=True, envvar="EDGELOOP_HUB", help="The hub's address (or $EDGELOOP_HUB); token in $EDGELOOP_HUB_TOKEN."
)
ca_option = click.option(
    "--ca-file", default="", envvar="EDGELOOP_HUB_CA", help="PEM, where no public authority signed the hub's certificate."
)
keys_option = click.option(
    "--keys", "folder", type=click.Path(path_type=Path), default=Path("keys"), show_default=True, help="Folder of keys."
)
passphrase_option = click.option(
    "--passphrase",
    is_flag=True,
    help="Ask for a passphrase that encrypts the keys; else it is in $EDGELOOP_PASSPHRASE_FILE, if there is one.",
)


def _keys(folder: Path, passphrase: bool, new: bool = False) -> Any:
    from edgeloop_pipeline.fleet.tuf_keys import Keys

    if not passphrase:
        return Keys.unattended(folder)
    return Keys(folder, click.prompt("Passphrase", hide_input=True, confirmation_prompt=new).encode() or None)


def _hub(address: str, ca_file: str) -> Any:
    from edgeloop_pipeline.fleet.hub_client import Hub

    return Hub.of(address, ca_file)


@click.group(epilog=EXIT_CODES)
def keys() -> None:
    """The keys that decide what devices run."""


@keys.command(epilog=EXIT_CODES)
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option("--root-keys", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threshold", type=click.IntRange(min=1), default=2, show_default=True, help="How many of them must sign together.")
def init(hub: str, ca_file: str, folder: Path, passphrase: bool, root_keys: int, threshold: int) -> None:
    """Make all keys, and give the hub its first signed metadata."""
    from edgeloop_pipeline.fleet import tuf_keys

    made, there = _keys(folder, passphrase, new=True), _hub(hub, ca_file)
    if there.get("/api/v1/signed")["roots"]:
        raise UsageError(f"{hub}: has keys already; rotate them, or use an empty hub")
    root, targets = tuf_keys.first_root(made, tuf_keys.online_key(there.get("/api/v1/key")), root_keys, threshold)
    there.post("/api/v1/signed", {"roots": [root.decode()], "targets": targets.decode()})
    click.echo(f"{folder}: {root_keys} root keys (threshold {threshold}) and the targets key; {hub} has its metadata")
    click.echo(tuf_keys.BACKUP.format(count=root_keys, threshold=threshold, spare=root_keys - threshold))


@keys.command(epilog=EXIT_CODES)
@click.argument("role", type=click.Choice(["root", "targets", "online"]))
@hub_option
@ca_option
@keys_option
@passphrase_option
def rotate(role: str, hub: str, ca_file: str, folder: Path, passphrase: bool) -> None:
    """Replace a key, and with that revoke the old one: lost or stolen, it counts no more."""
    from edgeloop_pipeline.fleet import tuf_keys

    held, there = _keys(folder, passphrase), _hub(hub, ca_file)
    told = there.get("/api/v1/signed")
    targets = tuf_keys.current_targets(held, told["targets"])
    root = tuf_keys.rotated(held, role, tuf_keys.online_key(there.get("/api/v1/key")) if role == "online" else None)
    body = ""
    if role == "targets":
        targets.version, targets.expires = targets.version + 1, tuf_keys.expiry(tuf_keys.TARGETS_DAYS)
        body = tuf_keys.signed_targets(held, targets).decode()
    there.post("/api/v1/signed", {"roots": tuf_keys.roots_to_send(held, told["roots"], root), "targets": body})
    click.echo(f"{role}: a new key, in root version {held.root.signed.version}; the old one counts no more")


@keys.command(epilog=EXIT_CODES)
@click.argument("role", type=click.Choice(["targets", "root"]), default="targets")
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option(
    "--after-restore", is_flag=True, help="The hub was restored from a backup: sign what it still has, above all versions."
)
def renew(role: str, hub: str, ca_file: str, folder: Path, passphrase: bool, after_restore: bool) -> None:
    """Sign the same anew, for a year (root: three), before it expires."""
    from edgeloop_pipeline.fleet import renewal

    held, there = _keys(folder, passphrase), _hub(hub, ca_file)
    if after_restore:
        click.echo("\n".join(renewal.after_restore(held, there)))
    else:
        click.echo(renewal.targets(held, there) if role == "targets" else renewal.root(held, there))


@click.command(epilog=EXIT_CODES)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option("--channel", default="stable", show_default=True)
def publish(bundle: Path, hub: str, ca_file: str, folder: Path, passphrase: bool, channel: str) -> None:
    """Sign BUNDLE and bring it to the hub. Devices get it by a rollout."""
    from edgeloop_pipeline.fleet import release, renewal

    there = _hub(hub, ca_file)
    name, sent = release.publish(_keys(folder, passphrase), there, bundle, channel)
    renewal.warn(there)
    if sent is None:
        click.echo(f"{name}: is published already")
    else:
        click.echo(
            f'{name}: published ({sent:,} bytes sent); start with: edgeloop rollout start {name} --steps "DEVICE, 25%, 100%"'
        )


@click.command(epilog=EXIT_CODES)
@click.argument("target")
@hub_option
@ca_option
@keys_option
@passphrase_option
def withdraw(target: str, hub: str, ca_file: str, folder: Path, passphrase: bool) -> None:
    """Sign that TARGET is not to be installed any more."""
    from edgeloop_pipeline.fleet import release, tuf_keys

    held, there = _keys(folder, passphrase), _hub(hub, ca_file)
    targets = tuf_keys.current_targets(held, there.get("/api/v1/signed")["targets"])
    if target not in targets.targets:
        raise UsageError(f"{target}: is not published; there is {', '.join(sorted(targets.targets)) or 'nothing'}")
    release.sign(held, there, targets, {n: t for n, t in targets.targets.items() if n != target})
    click.echo(f"{target}: withdrawn")


@click.command("export-updates", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@hub_option
@ca_option
def export_updates(folder: Path, hub: str, ca_file: str) -> None:
    """Write signed metadata and bundles into FOLDER (a USB stick), for devices that no network reaches."""
    from edgeloop_pipeline.fleet.offline_repo import export

    click.echo(export(_hub(hub, ca_file), folder))


@click.command("export-triton", epilog=EXIT_CODES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--gpu", is_flag=True, help="An instance on each GPU, instead of the CPU.")
def export_triton(bundle: Path, folder: Path, gpu: bool) -> None:
    """Write BUNDLE's tails into FOLDER as a model repository for tritonserver, which then serves them as the hub would."""
    from edgeloop_contract.archive import Bundle
    from edgeloop_exporters import triton

    with Bundle.open(bundle) as opened:
        for name in triton.write(opened, folder, gpu):
            click.echo(f"{folder / name}")


@click.group(epilog=EXIT_CODES)
def rollout() -> None:
    """Bring a published bundle to the fleet, step by step."""


@rollout.command(epilog=EXIT_CODES)
@click.argument("target")
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option("--steps", default="25%, 100%", show_default=True, help='Cohorts that grow: "pi-1+pi-2, label:pilot, 25%, 100%".')
@click.option("--soak-minutes", type=float, default=60.0, show_default=True, help="How long each step runs well before the next.")
@click.option(
    "--on-breach",
    type=click.Choice(["halt", "return"]),
    default="halt",
    show_default=True,
    help="Leave the cohort, or send it back.",
)
@click.option("--gate", "gates", multiple=True, metavar="NAME=VALUE", help="Change a gate, such as max_latency_ratio=1.2.")
def start(
    target: str, hub: str, ca_file: str, folder: Path, passphrase: bool, steps: str, soak_minutes: float, on_breach: str,
    gates: tuple[str, ...],
) -> None:  # fmt: skip
    """Start with the first step; the hub's tick goes on from there."""
    from edgeloop_pipeline.fleet import release, renewal

    held, there = _keys(folder, passphrase) if on_breach == "return" else None, _hub(hub, ca_file)
    renewal.warn(there)
    made = release.start(there, target, steps, soak_minutes, dict(_gate(word) for word in gates), held)
    click.echo(f"rollout {made} of {target} has begun; edgeloop rollout status {made} tells how it goes")


def _gate(word: str) -> tuple[str, float]:
    name, _, value = word.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise UsageError(f"--gate {word!r}: write NAME=NUMBER") from error


@rollout.command(epilog=EXIT_CODES)
@click.argument("number", type=int, required=False)
@hub_option
@ca_option
def status(number: int | None, hub: str, ca_file: str) -> None:
    """One rollout with its gates, or all of them."""
    from edgeloop_pipeline.fleet import renewal

    there = _hub(hub, ca_file)
    renewal.warn(there)
    if number is None:
        for row in there.get("/api/v1/rollouts"):
            click.echo(f"{row['id']:>4}  {row['state']:9} step {row['step']} of {row['steps']}  {row['target']}  {row['reason']}")
        return
    _show(there.get(f"/api/v1/rollouts/{number}"))


def _show(row: dict[str, Any]) -> None:
    began = f"{datetime.fromtimestamp(row['began'], timezone.utc):%Y-%m-%d %H:%M} UTC"
    step = f"step {row['step']} of {len(row['steps'])}"
    click.echo(f"rollout {row['id']} of {row['target']}: {row['state']}, {step}, since {began}")
    if row["reason"]:
        click.echo(f"  {row['reason']}")
    click.echo(f"  {row['cohort']} devices in the cohort, {row['reported']} report from the new bundle, {row['failed']} failed")
    for gate in row["gates"]:
        verdict = {True: "BREACHED", False: "holds", None: "cannot tell"}[gate["breached"]]
        click.echo(f"  {gate['gate']:18}{verdict:12}{gate['text']}")


def _verb(verb: str, says: str) -> None:
    @rollout.command(verb, epilog=EXIT_CODES, help=says)
    @click.argument("number", type=int)
    @hub_option
    @ca_option
    def changed(number: int, hub: str, ca_file: str) -> None:
        _show(_hub(hub, ca_file).post(f"/api/v1/rollouts/{number}/{verb}", {}))


for _name, _says in (
    ("pause", "Nobody new gets the bundle until it is resumed."),
    ("resume", "Go on, also after a gate halted it."),
    ("abort", "End it; who is not on the released bundle goes back to that, where signed targets allow it."),
):
    _verb(_name, _says)


@click.command(epilog=EXIT_CODES)
@click.argument("target")
@click.option("--on", "device", required=True, help="The device's name.")
@hub_option
@ca_option
@click.option("--wait-minutes", type=float, default=15.0, show_default=True, help="For the device to poll and to be idle.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the measurement here: target.device can name that file.")
def bench(target: str, device: str, hub: str, ca_file: str, wait_minutes: float, output: Path | None) -> None:
    """Measure a published bundle on a device of the fleet."""
    import msgspec

    from edgeloop_contract.files import publish as write

    there = _hub(hub, ca_file)
    made = there.post("/api/v1/jobs", {"device": device, "target": target})["id"]
    deadline = time.monotonic() + wait_minutes * 60
    while (found := there.get(f"/api/v1/jobs/{made}"))["state"] == "waiting":
        if time.monotonic() > deadline:
            raise NetworkError(
                f"{device} has not answered job {made} within {wait_minutes:g} min; it goes on waiting for the device"
            )
        time.sleep(1)
    if found["state"] == "refused":
        raise DeviceError(f"{device}: {found['result'].get('refused', 'refused')}")
    body = msgspec.json.encode(found["result"]["measured"])
    if output is not None:
        write(output, body)
        click.echo(f"{output}: {device}'s measurement of {target}")
    else:
        click.echo(body.decode())


COMMANDS = (keys, publish, withdraw, export_updates, export_triton, rollout, bench)
