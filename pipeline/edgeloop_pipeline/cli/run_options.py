"""Options that the commands for runs share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A number within limits: one that is none (nan) compares with nothing, and would be no limit."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is no number that can be reached", param, ctx)


runs_option = click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="The folder of the runs."
)
set_option = click.option(
    "--set", "changes", multiple=True, metavar="STAGE.KEY=VALUE", help="Change a setting; STAGE=off leaves it out."
)
