"""What options of the command line come to."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from edgeloop_contract.errors import UsageError


def in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def cron_line(given: dict[str, Any]) -> str:
    """The tick of this very hub, for a crontab: cron has another folder and another path."""
    options = ["--data", str(given["data"].resolve())]
    for name in ("database", "blobs"):
        options += [f"--{name}", given[name]] if given[name] else []
    words = [str(Path(sys.argv[0]).resolve()), *options, "tick"]
    return "* * * * * " + shlex.join(words).replace("%", r"\%")


def limits_of(given: tuple[str, ...]) -> dict[str, Any]:
    """Raises UsageError for a limit that is none, or a value of another kind."""
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
            raise UsageError(f"--set {name}: {value!r} is no {kind.__name__}") from error
        if isinstance(limits[name], int | float) and not 0 < limits[name] < float("inf"):
            raise UsageError(f"--set {name}: {value} is not above 0")
    return limits
