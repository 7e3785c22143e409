"""Options that the commands for runs share."""

from __future__ import annotations

from pathlib import Path

import click

runs_option = click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="The folder of the runs."
)
set_option = click.option(
    "--set", "changes", multiple=True, metavar="STAGE.KEY=VALUE", help="Change a setting; STAGE=off leaves it out."
)
