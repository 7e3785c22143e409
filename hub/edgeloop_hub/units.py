"""systemd's units for a hub: the server, and its ticks as a service or, like cron, by a timer."""

from __future__ import annotations

import pwd
from pathlib import Path

from edgeloop_contract.errors import UsageError
from edgeloop_contract.files import publish

SERVER, TICK, TIMER = "edgeloop-hub.service", "edgeloop-hub-tick.service", "edgeloop-hub-tick.timer"

_UNIT = """[Unit]
Description={what}
After=network-online.target
Wants=network-online.target

[Service]
{service}
User={user}
WorkingDirectory={data}
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={data}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
UMask=0077
"""
_ALWAYS = "\n[Install]\nWantedBy=multi-user.target\n"
_TIMER = """[Unit]
Description=edgeloop hub: a tick a minute

[Timer]
OnCalendar=minutely
AccuracySec=5s

[Install]
WantedBy=timers.target
"""


def units(words: list[str], data: Path, timer: bool) -> dict[str, str]:
    """Files by name. `words`: the program and its options, before the command. `timer`: as cron does it, a process a minute.

    Raises UsageError for a path that systemd cannot take.
    """
    command, folder = " ".join(_argument(word) for word in words), _escaped(str(data.resolve()))
    user = pwd.getpwuid(data.stat().st_uid).pw_name
    service = f"Type=exec\nExecStart={command} {{}}\nRestart=always\nRestartSec=10\nTimeoutStopSec=90"
    made = {SERVER: _UNIT.format(what="edgeloop hub", service=service.format("serve"), user=user, data=folder) + _ALWAYS}
    if timer:
        once = f"Type=oneshot\nExecStart={command} tick"
        made[TICK] = _UNIT.format(what="edgeloop hub: a tick", service=once, user=user, data=folder)
        made[TIMER] = _TIMER
    else:
        every = service.format("tick --every 60")
        made[TICK] = _UNIT.format(what="edgeloop hub: ticks", service=every, user=user, data=folder) + _ALWAYS
    return made


def write(made: dict[str, str], folder: Path) -> list[Path]:
    """Write them, for their owner alone: a database's address may hold a password."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made.items():
        publish(folder / name, text.encode(), 0o600)
    return [folder / name for name in made]


def _escaped(path: str) -> str:
    if any(not c.isprintable() for c in path):
        raise UsageError(f"{path!r}: systemd does not accept such a name; rename the folder or the file")
    return path.replace("\\", "\\\\").replace("%", "%%").replace(" ", "\\x20").replace('"', "\\x22")


def _argument(word: str) -> str:
    """A word of a command line as systemd reads it (systemd.syntax(7)); $ begins a variable there."""
    if any(not c.isprintable() for c in word):
        raise UsageError(f"{word!r}: systemd does not accept such a name; rename the folder or the file")
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
