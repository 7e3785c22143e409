"""Options of the command line: the hub that they name, addresses, the line for cron, limits."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from edgeloop_contract.errors import UsageError

EXIT_CODES = """\b
Exit codes: 0 done · 1 a part of a tick failed · 2 wrong usage · 3 what was sent is wrong
7 database, disk or folder · 130 interrupted"""


def in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def cron_line(given: dict[str, Any]) -> str:
    """The line for a crontab that ticks this hub. It has whole paths, as cron runs in another folder with another PATH."""
    return "* * * * * " + shlex.join([*program(given), "tick"]).replace("%", r"\%")


def program(given: dict[str, Any]) -> list[str]:
    """This command with the options that name its hub, whole paths: for cron and for units."""
    options = ["--data", str(given["data"].resolve())]
    for name in ("database", "blobs"):
        options += [f"--{name}", given[name]] if given[name] else []
    return [str(Path(sys.argv[0]).resolve()), *options]


def limits_of(given: tuple[str, ...]) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`. Raises UsageError for an unknown limit, or a value of another type."""
    import msgspec

    from edgeloop_contract.settings import nearest
    from edgeloop_hub.settings import LIMITS

    limits: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if name not in LIMITS or not equals:
            raise UsageError(f"--set {text!r}: there is no limit {name!r}{nearest(name, LIMITS)}; write NAME=VALUE")
        kind = LIMITS[name]
        try:
            limits[name] = value.split(",") if kind == list[str] else msgspec.convert(value, kind, strict=False)
        except msgspec.MsgspecError as error:
            raise UsageError(f"--set {name}: expected {kind.__name__}, got {value!r}") from error
        if kind in (int, float) and not 0 < limits[name] < float("inf"):
            raise UsageError(f"--set {name}: {value} is not above 0")
    return limits


def settings_of(context: click.Context, **more: Any) -> Any:
    from edgeloop_hub.settings import Settings

    return Settings(**context.obj, **more)


def open_hub(context: click.Context) -> Any:
    from edgeloop_hub.hub import Hub

    return Hub.open(settings_of(context))


def existing_hub(context: click.Context, **more: Any) -> Any:
    """The hub of these options. Raises UsageError where there is none: maintenance never creates an empty hub."""
    from edgeloop_hub.hub import Hub
    from edgeloop_hub.storage.data_folder import KEY

    settings = settings_of(context, **more)
    if not (settings.data / KEY).exists():
        raise UsageError(
            f"{settings.data.resolve()}: there is no hub; "
            "name its folder, as serve has it: edgeloop-hub --data FOLDER (or $EDGELOOP_HUB_DATA)"
        )
    return Hub.open(settings)
