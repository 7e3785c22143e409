"""`edgeloop-hub user` and `audit`: people with their roles, and who did what."""

from __future__ import annotations

import getpass
import json
import sys
from pathlib import Path
from typing import Any

import click

from edgeloop_hub.cli_options import EXIT_CODES, existing_hub, open_hub


def operator() -> str:
    """Who sits at the command line, for the audit log."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a user id without a name
        return "command line"


def check_sign_in(hub: Any) -> None:
    """Before `serve`: raises UsageError for a faulty sign-in.toml, and where nobody could sign in while the provider is away."""
    from edgeloop_hub.auth import people, sign_in_settings

    settings = sign_in_settings.load(hub.settings.data)
    if settings.password_only_for:
        with hub.database.reading() as database:
            people.guard_break_glass(database, settings.password_only_for)
    hub.database.engine.dispose()


def _break_glass(hub: Any) -> str:
    from edgeloop_hub.auth import sign_in_settings

    return str(sign_in_settings.load(hub.settings.data).password_only_for)


@click.group(epilog=EXIT_CODES)
def user() -> None:
    """People who sign in, and their roles."""


@user.command("add", epilog=EXIT_CODES)
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--role", type=click.Choice(["viewer", "labeller", "operator", "admin"]),
    help="What NAME may do (docs/hub.md); default: admin for the first one, viewer for others.",
)  # fmt: skip
@click.pass_context
def add_user(context: click.Context, name: str, password_stdin: bool, role: str | None) -> None:
    """Add a user, or change the password of one."""
    from edgeloop_hub.auth import accounts, audit, people

    password = (
        sys.stdin.readline().rstrip("\n") if password_stdin else click.prompt("Password", hide_input=True, confirmation_prompt=True)
    )
    with open_hub(context).database.writing() as database:
        given = people.choose_role(database, accounts.own_name(name, "user"), role)
        accounts.add_user(database, name, password)
        audit.append(database, operator(), "user added", name, f"role {given}")
    click.echo(f"user {name}, {given}: sign in at /sign-in")


@user.command("list", epilog=EXIT_CODES)
@click.pass_context
def list_users(context: click.Context) -> None:
    """List people with their roles."""
    from edgeloop_hub.auth import people
    from edgeloop_hub.time_text import when

    with existing_hub(context).database.writing() as database:
        people.adopt(database)
        for person in people.listed(database):
            came = f", by {person.issuer}" + (", role of the hub" if person.role_from == "hub" else "") if person.issuer else ""
            click.echo(f"{person.name:20}  {person.role:8}  added {when(person.created)}, {person.sessions} open sessions{came}")
        for name in people.kept_out(database):
            click.echo(f"{name:20}  deleted; it may not come again by the provider: edgeloop-hub user readmit {name}")


@user.command("role", epilog=EXIT_CODES)
@click.argument("name")
@click.argument("role")
@click.pass_context
def change_role(context: click.Context, name: str, role: str) -> None:
    """Give NAME another ROLE: viewer, labeller, operator or admin. It holds at once. `provider`: by the provider's groups again."""
    from edgeloop_hub.auth import audit, people

    hub = existing_hub(context)
    with hub.database.writing() as database:
        people.set_role(database, name, role, _break_glass(hub))
        audit.append(database, operator(), "role changed", name, role)
    click.echo(f"user {name}: {role}")


@user.command("delete", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
def delete_user(context: click.Context, name: str) -> None:
    """Delete a user; open sessions end. Labels and log entries stay under the name."""
    from edgeloop_hub.auth import audit, people

    hub = existing_hub(context)
    with hub.database.writing() as database:
        people.remove(database, name, _break_glass(hub))
        audit.append(database, operator(), "user deleted", name)
    click.echo(f"user {name}: deleted")


@user.command("readmit", epilog=EXIT_CODES)
@click.argument("name")
@click.pass_context
def readmit_user(context: click.Context, name: str) -> None:
    """Let a deleted user NAME come by the provider again, as somebody new."""
    from edgeloop_hub.auth import audit, people

    with existing_hub(context).database.writing() as database:
        people.readmit(database, name)
        audit.append(database, operator(), "user readmitted", name)
    click.echo(f"user {name}: may come by the provider again")


@click.group("audit", epilog=EXIT_CODES)
def audit_group() -> None:
    """Who did what: a log to which entries are only added."""


@audit_group.command("verify", epilog=EXIT_CODES)
@click.option("--head", default="", metavar="DIGEST", help="A digest that was noted earlier: it has to be in the log still.")
@click.pass_context
def verify(context: click.Context, head: str) -> None:
    """Check that no entry was changed or removed, and print the last digest: note it elsewhere."""
    from edgeloop_hub.auth import audit

    with existing_hub(context).database.reading(whole=True) as database:
        count, digest = audit.verify(audit.entries(database), head)
    click.echo(f"{count} entries, as they were written; the last digest: {digest}")


@audit_group.command("export", epilog=EXIT_CODES)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def export(context: click.Context, file: Path) -> None:
    """Write the whole log into FILE, as JSON lines with their digests."""
    from edgeloop_contract.files import publishing
    from edgeloop_hub.auth import audit

    count = 0
    with existing_hub(context).database.reading(whole=True) as database, publishing(file, 0o600) as out:
        for entry in audit.entries(database):
            out.write(json.dumps(entry).encode() + b"\n")
            count += 1
    click.echo(f"{file}: {count} entries")
