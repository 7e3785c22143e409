"""Options that the commands for a fleet share, and what they open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # loaded when a command runs
    from edgeloop_pipeline.fleet.hub_client import HubClient
    from edgeloop_pipeline.fleet.tuf_keys import Keys

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
    help="Ask for the passphrase of the keys; without this option it is read from $EDGELOOP_PASSPHRASE_FILE, where that is set.",
)


def open_keys(folder: Path, passphrase: bool, new: bool = False) -> Keys:
    """The folder's keys, with the passphrase that somebody types, or of $EDGELOOP_PASSPHRASE_FILE. `new`: it is typed twice."""
    from edgeloop_pipeline.fleet.tuf_keys import Keys

    if not passphrase:
        return Keys.unattended(folder)
    return Keys(folder, click.prompt("Passphrase", hide_input=True, confirmation_prompt=new).encode() or None)


def open_hub(address: str, ca_file: str) -> HubClient:
    """The hub at an address, with the token of the environment. Raises UsageError."""
    from edgeloop_pipeline.fleet.hub_client import HubClient

    return HubClient.from_environment(address, ca_file)
