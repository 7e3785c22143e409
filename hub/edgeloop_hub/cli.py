"""`edgeloop-hub`: serve, tick, users, tokens, devices, backup and restore."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edgeloop_contract.errors import EdgeloopError, GateError, StorageError, UsageError
from edgeloop_hub.cli_alerts import alerts
from edgeloop_hub.cli_devices import device
from edgeloop_hub.cli_groups import group
from edgeloop_hub.cli_load import load
from edgeloop_hub.cli_options import EXIT_CODES, cron_line, existing_hub, in_address, limits_of, open_hub, program, settings_of
from edgeloop_hub.cli_people import audit_group, check_sign_in, operator, user

LOCAL_PROXIES = ("127.0.0.1", "::1")


def run_command() -> int:
    """Run the command line; every expected failure is one sentence on stderr and an exit code."""
    try:
        commands(standalone_mode=False)
    except EdgeloopError as error:
        click.echo(f"edgeloop-hub: {error}", err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except click.UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("edgeloop-hub: interrupted", err=True)
        return 130
    except EOFError:
        click.echo("edgeloop-hub: the input ended too early", err=True)
        return 2
    except OSError as error:
        click.echo(f"edgeloop-hub: {error.filename or 'output'}: {error.strerror}; make room or check the path", err=True)
        return StorageError.exit_code
    return 0


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeloop")
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path("hub-data"), show_default=True, envvar="EDGELOOP_HUB_DATA",
    help="Folder for the hub's key, and for database and blobs where no URL is given.",
)  # fmt: skip
@click.option("--database", default="", envvar="EDGELOOP_HUB_DATABASE", help="postgresql://… instead of SQLite.")
@click.option("--blobs", default="", envvar="EDGELOOP_HUB_BLOBS", help="s3://bucket/prefix, gs://… or az://… instead of a folder.")
@click.pass_context
def commands(context: click.Context, data: Path, database: str, blobs: str) -> None:
    """Registry of bundles, signed updates, rollouts in steps, and the fleet page."""
    context.obj = {"data": data, "database": database, "blobs": blobs}


@commands.command(epilog=EXIT_CODES)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=int, default=8700, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; they share the database.")
@click.option(
    "--certificate", type=click.Path(path_type=Path, exists=True), help="PEM; with --private-key the hub serves TLS itself."
)
@click.option("--private-key", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--set", "limits", multiple=True, metavar="NAME=VALUE",
    help="Another value for one of the hub's limits (docs/hub.md), such as labels_needed=2.",
)  # fmt: skip
@click.option("--behind-tls", is_flag=True, help="A proxy in front serves TLS: cookies are marked secure.")
@click.option(
    "--trusted-proxy", "proxies", multiple=True, metavar="ADDRESS",
    help="With --behind-tls: a proxy whose X-Forwarded-For is believed; default: one on this machine.",
)  # fmt: skip
@click.option(
    "--traces", default="", metavar="URL", envvar="EDGELOOP_HUB_TRACES",
    help="Send traces of requests to this OpenTelemetry collector (OTLP by HTTP, such as http://localhost:4318).",
)  # fmt: skip
@click.pass_context
def serve(
    context: click.Context, host: str, port: int, workers: int, certificate: Path | None, private_key: Path | None,
    limits: tuple[str, ...], behind_tls: bool, proxies: tuple[str, ...], traces: str,
) -> None:  # fmt: skip
    """Answer devices, the workstation and people."""
    import msgspec
    import uvicorn

    from edgeloop_hub.alerts import settings as alert_settings
    from edgeloop_hub.http import tracing
    from edgeloop_hub.http.connection_limits import ENVIRONMENT
    from edgeloop_hub.hub import Hub
    from edgeloop_hub.storage import device_rows

    if (certificate is None) != (private_key is None):
        raise UsageError("--certificate and --private-key belong together")
    if proxies and not behind_tls:
        raise UsageError("--trusted-proxy: only with --behind-tls; without a proxy the hub takes a client's own address")
    trusted = list(proxies or LOCAL_PROXIES) if behind_tls else []
    if host not in ("127.0.0.1", "::1", "localhost") and certificate is None and not behind_tls:
        click.echo(
            "edgeloop-hub: warning: passwords and credentials cross the network unencrypted; see --certificate and --behind-tls",
            err=True,
        )
    if traces:
        tracing.check(traces)
    settings = settings_of(
        context, traces=traces, secure_cookies=behind_tls or certificate is not None, trusted_proxies=trusted, **limits_of(limits)
    )
    alert_settings.load(settings.data)
    hub = Hub.open(settings)
    check_sign_in(hub)  # a mistake in the configuration is reported here, once
    if adopted := device_rows.adopt(hub.database):  # once, and not by each worker
        click.echo(f"edgeloop-hub: {adopted} devices of an earlier release got their rows", err=True)
    hub.database.engine.dispose()  # workers open their own
    os.environ[ENVIRONMENT] = msgspec.json.encode(settings, enc_hook=str).decode()
    click.echo(f"edgeloop-hub: {'https' if certificate else 'http'}://{in_address(host)}:{port}", err=True)
    click.echo(f"edgeloop-hub: for cron: {cron_line(context.obj)}", err=True)
    uvicorn.run(
        "edgeloop_hub.app:from_environment",
        factory=True, http="edgeloop_hub.http.connection_limits:LimitedProtocol", host=host, port=port, workers=workers,
        log_level="warning", access_log=False, server_header=False, proxy_headers=behind_tls,
        forwarded_allow_ips=trusted, ws="none",
        ssl_certfile=certificate, ssl_keyfile=private_key, timeout_keep_alive=75,
        limit_concurrency=max(1000, 2 * settings.connections), h11_max_incomplete_event_size=65536,
    )  # fmt: skip


@commands.command(epilog=EXIT_CODES)
@click.option("--accept-clock", is_flag=True, help="Confirm the clock, although the last tick was long ago or lies in the future.")
@click.option(
    "--set", "limits", multiple=True, metavar="NAME=VALUE", help="Another value for a limit, such as leap_seconds=7776000."
)
@click.option("--every", type=click.FloatRange(1, 600), metavar="SECONDS", help="Go on, with a tick every so many seconds.")
@click.pass_context
def tick(context: click.Context, accept_clock: bool, limits: tuple[str, ...], every: float | None) -> None:
    """Sign metadata that are due, advance rollouts, delete old rows. For cron, every minute; or with --every as a service."""
    from edgeloop_hub.alerts.sender import Sender
    from edgeloop_hub.auth import audit
    from edgeloop_hub.tick import tick as advance
    from edgeloop_hub.tick_service import run_every, stop_event

    if every and accept_clock:
        raise UsageError("--accept-clock is said once: edgeloop-hub tick --accept-clock; then start the service")
    hub = existing_hub(context, **limits_of(limits))
    if every:
        sender = Sender(hub.database, hub.settings.data)
        run_every(
            every, lambda: advance(hub.database, hub.blobs, hub.signer, hub.settings, sender=sender), stop_event(), click.echo
        )
        return
    outcome = advance(hub.database, hub.blobs, hub.signer, hub.settings, accept_clock)
    if accept_clock:
        with hub.database.writing() as database:
            audit.append(database, operator(), "clock accepted")
    for line in outcome.actions:
        click.echo(line)
    if outcome.problems:
        raise GateError("tick: " + "; ".join(outcome.problems))


@commands.command(epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("/etc/systemd/system"))
@click.option("--timer", is_flag=True, help="A process a minute by a timer, as cron does it, in place of a service.")
@click.pass_context
def units(context: click.Context, folder: Path, timer: bool) -> None:
    """Write systemd's units for serve and tick into FOLDER (/etc/systemd/system)."""
    from edgeloop_hub import units as systemd

    hub = existing_hub(context)
    for path in systemd.write(systemd.units(program(context.obj), hub.settings.data, timer), folder):
        click.echo(path)
    begun = systemd.TIMER if timer else systemd.TICK
    click.echo(f"systemctl daemon-reload && systemctl enable --now {systemd.SERVER} {begun}", err=True)


@commands.group(epilog=EXIT_CODES)
def token() -> None:
    """Secrets that are shown once."""


@token.command("api", epilog=EXIT_CODES)
@click.argument("name")
@click.option("--days", type=float, help="Days until it expires; without this option it never does.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["metrics", "tails", "read", "label", "publish", "operate", "admin"]),
    help="What it may do (docs/hub.md), and nothing else; without this option everything.",
)  # fmt: skip
@click.pass_context
def api_token(context: click.Context, name: str, days: float | None, scopes: tuple[str, ...]) -> None:
    """Make a token for the workstation, or for cron."""
    if days is not None and not 0 < days < 1e5:
        raise UsageError(f"--days: expected days above 0, got {days:g}")
    _token(context, "api", name, [], days * 86400 if days else None, scopes)


@token.command("enrol", epilog=EXIT_CODES)
@click.argument("name")
@click.option("--label", "labels", multiple=True, help="A label that the device will have, such as pilot.")
@click.pass_context
def enrol_token(context: click.Context, name: str, labels: tuple[str, ...]) -> None:
    """Make a token with which the device NAME enrols once (NAME any: the first device that uses it)."""
    _token(context, "enrol", name, list(labels), settings_of(context).token_seconds)


@token.command("list", epilog=EXIT_CODES)
@click.pass_context
def list_tokens(context: click.Context) -> None:
    """List every token by its id and name, without its secret."""
    from edgeloop_hub.auth import accounts
    from edgeloop_hub.time_text import when

    with existing_hub(context).database.reading() as database:
        for row in accounts.token_summaries(database):
            ends = f"expires {when(row.expires)}" if row.expires else "never expires"
            used = f", used {when(row.used)}" if row.used else ""
            scopes = f", {' '.join(row.scopes)}" if row.scopes else ""
            click.echo(f"{row.id}  {row.kind:5}  {row.name:20}  made {when(row.created)}, {ends}{used}{scopes}")


@token.command("revoke", epilog=EXIT_CODES)
@click.argument("which")
@click.pass_context
def revoke_token(context: click.Context, which: str) -> None:
    """Revoke the token with this id, or all tokens of this name."""
    from edgeloop_hub import event_log
    from edgeloop_hub.auth import accounts, audit

    with existing_hub(context).database.writing() as database:
        count = accounts.revoke_tokens(database, which)
        audit.append(database, operator(), "token revoked", which, f"{count} of them")
        event_log.record(database, "token revoked", f"{which}: {count} of them")
    click.echo(f"{which}: {count} token{'s' if count != 1 else ''} revoked")


def _token(
    context: click.Context, kind: str, name: str, labels: list[str], seconds: float | None, scopes: tuple[str, ...] = ()
) -> None:  # fmt: skip
    from edgeloop_hub.auth import accounts, audit

    with open_hub(context).database.writing() as database:
        made = accounts.make_token(database, kind, name, labels, seconds, scopes)
        audit.append(database, operator(), f"{kind} token made", name, ", ".join(scopes or labels))
    click.echo(made)


commands.add_command(device)
commands.add_command(group)
commands.add_command(alerts)
commands.add_command(load)
commands.add_command(audit_group)
commands.add_command(user)


@commands.command(epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def backup(context: click.Context, file: Path) -> None:
    """Write everything into one FILE: database, bundles, the hub's key. Keep it as a secret."""
    from edgeloop_hub.auth import audit
    from edgeloop_hub.backup.save import save

    hub = existing_hub(context)
    with hub.database.writing() as database:
        audit.append(database, operator(), "backup", str(file))
    click.echo(save(hub, file))


@commands.command(epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.pass_context
def restore(context: click.Context, file: Path) -> None:
    """Fill an empty hub from a backup FILE. The database may be of another kind."""
    from edgeloop_hub.backup.restore import load

    click.echo(load(settings_of(context), file, operator()))


if __name__ == "__main__":
    sys.exit(run_command())
