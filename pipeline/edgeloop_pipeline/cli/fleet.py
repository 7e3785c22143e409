"""`edgeloop keys`, `publish`, `withdraw`, `bench`, `export-updates` and `export-triton`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import click

from edgeloop_contract.errors import DeviceError, NetworkError, UsageError
from edgeloop_pipeline.cli.hub_options import EXIT_CODES, ca_option, hub_option, keys_option, open_hub, open_keys, passphrase_option
from edgeloop_pipeline.cli.jobs import jobs
from edgeloop_pipeline.cli.pack_agent import pack_agent
from edgeloop_pipeline.cli.rollout import rollout


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
    from edgeloop_contract.hub_messages import MetadataUpload
    from edgeloop_pipeline.fleet import tuf_keys

    new_keys, client = open_keys(folder, passphrase, new=True), open_hub(hub, ca_file)
    if client.signed().roots:
        raise UsageError(f"{hub}: has keys already; rotate them, or use an empty hub")
    root, targets = tuf_keys.first_root(new_keys, tuf_keys.online_key(client.public_key()), root_keys, threshold)
    client.publish(MetadataUpload([root.decode()], targets.decode()))
    click.echo(f"{folder}: {root_keys} root keys (threshold {threshold}) and the targets key; {hub} has its metadata")
    click.echo(tuf_keys.BACKUP.format(count=root_keys, threshold=threshold, spare=root_keys - threshold))


@keys.command(epilog=EXIT_CODES)
@click.argument("role", type=click.Choice(["root", "targets", "online"]))
@hub_option
@ca_option
@keys_option
@passphrase_option
def rotate(role: Literal["root", "targets", "online"], hub: str, ca_file: str, folder: Path, passphrase: bool) -> None:
    """Replace a key and revoke the old one, which may be lost or stolen."""
    from edgeloop_pipeline.fleet import renewal

    click.echo(renewal.rotate(open_keys(folder, passphrase), open_hub(hub, ca_file), role))


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
    """Sign the same metadata again, for a year (root: three), before they expire."""
    from edgeloop_pipeline.fleet import renewal

    keys, client = open_keys(folder, passphrase), open_hub(hub, ca_file)
    if after_restore:
        click.echo("\n".join(renewal.after_restore(keys, client)))
    else:
        click.echo(renewal.targets(keys, client) if role == "targets" else renewal.root(keys, client))


@click.command(epilog=EXIT_CODES)
@click.argument("bundle", required=False, type=click.Path(path_type=Path, exists=True))
@hub_option
@ca_option
@keys_option
@passphrase_option
@click.option("--channel", default="stable", show_default=True)
@click.option("--delta/--no-delta", default=True, show_default=True, help="From the last version, where one is worth its bytes.")
@click.option("--config", metavar="NAME", help="BUNDLE is a config (TOML) instead, for devices whose updates.config is NAME.")
@click.option("--agent", metavar="NAME", help="BUNDLE is a wheelhouse instead, for devices whose updates.agent is NAME.")
@click.option(
    "--shipped",
    is_flag=True,
    help="No BUNDLE: devices of --agent go back to the packaged agent, those of --config to their own file.",
)
def publish(
    bundle: Path | None, hub: str, ca_file: str, folder: Path, passphrase: bool, channel: str, delta: bool, config: str | None,
    agent: str | None, shipped: bool,
) -> None:  # fmt: skip
    """Sign BUNDLE and send it to the hub. Devices get it by a rollout."""
    from edgeloop_contract.archive import Bundle
    from edgeloop_pipeline.fleet import release, renewal

    client = open_hub(hub, ca_file)
    if config is not None and agent is not None:
        raise UsageError("--config and --agent: BUNDLE is one of them; give one")
    if shipped:
        model = _shipped_model(bundle, config, agent)
        name, sent = release.publish_shipped(open_keys(folder, passphrase), client, model, channel)
        renewal.warn(client)
        _say_published(name, sent)
        return
    if bundle is None:
        raise UsageError("BUNDLE: name a bundle, a config or a wheelhouse; or give --shipped")
    if agent is None and bundle.suffix == ".wheelhouse":
        raise UsageError(f"{bundle}: is a wheelhouse; give --agent NAME, for devices whose updates.agent is NAME")
    if config is not None or agent is not None:
        keys = open_keys(folder, passphrase)
        if config is not None:
            name, sent = release.publish_config(keys, client, bundle, config, channel)
        else:
            name, sent = release.publish_agent(keys, client, bundle, str(agent), channel)
        renewal.warn(client)
        _say_published(name, sent)
        return
    name, sent = release.publish(open_keys(folder, passphrase), client, bundle, channel, delta)
    with Bundle.open(bundle) as opened:
        if opened.manifest.canary is None:
            click.echo(
                f"{name}: devices check its structure only: it has no samples with right answers to check them with", err=True
            )
    renewal.warn(client)
    _say_published(name, sent)


def _shipped_model(bundle: Path | None, config: str | None, agent: str | None) -> str:
    """What goes back to what devices were shipped with. Raises UsageError."""
    from edgeloop_contract.publications import AGENT_MODEL, CONFIG_MODEL

    if bundle is not None:
        raise UsageError(f"--shipped: devices have it already; leave {bundle} out, or publish it without --shipped")
    if config is None and agent is None:
        raise UsageError("--shipped: give --agent NAME or --config NAME; for a bundle publish the shipped one itself")
    return CONFIG_MODEL + config if config is not None else f"{AGENT_MODEL}{agent}"


def _say_published(name: str, sent: int | None) -> None:
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
    """Sign that devices install TARGET no more."""
    from edgeloop_pipeline.fleet import release, tuf_keys

    keys, client = open_keys(folder, passphrase), open_hub(hub, ca_file)
    targets = tuf_keys.current_targets(keys, client.signed().targets)
    if target not in targets.targets:
        raise UsageError(f"{target}: is not published; there is {', '.join(sorted(targets.targets)) or 'nothing'}")
    release.sign(keys, client, targets, release.without(targets, target))
    click.echo(f"{target}: withdrawn; devices that run it go on with it until another version is released or rolled out")


@click.command("export-updates", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@hub_option
@ca_option
def export_updates(folder: Path, hub: str, ca_file: str) -> None:
    """Write signed metadata and bundles into FOLDER (a USB stick), for devices that no network reaches."""
    from edgeloop_pipeline.fleet.offline_repo import export

    click.echo(export(open_hub(hub, ca_file), folder))


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
    from edgeloop_contract.hub_messages import JobRequest

    client = open_hub(hub, ca_file)
    job = client.create_job(JobRequest(device, target))
    deadline = time.monotonic() + wait_minutes * 60
    while (status := client.job(job)).state == "waiting":
        if time.monotonic() > deadline:
            raise NetworkError(
                f"{device} has not answered job {job} within {wait_minutes:g} min; it goes on waiting for the device"
            )
        time.sleep(1)
    if status.state == "refused":
        raise DeviceError(f"{device}: {status.result.refused or 'refused'}")
    body = msgspec.json.encode(status.result.measured)
    if output is not None:
        write(output, body)
        click.echo(f"{output}: {device}'s measurement of {target}")
    else:
        click.echo(body.decode())


COMMANDS = (keys, pack_agent, publish, withdraw, export_updates, export_triton, rollout, bench, jobs)
