"""Installs the agent as a systemd service: a plan of actions, which can be shown, then carried out."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.config import Config
from edgeloop_agent.device_state import default_folder
from edgeloop_contract.errors import DeviceError, StorageError, UsageError
from edgeloop_contract.files import publish

UNIT = "edgeloop-agent.service"
USER = "edgeloop-agent"
CAMERA_KINDS = ("camera", "rpicam")
DEVICE_KINDS = (*CAMERA_KINDS, "microphone", "arecord", "pcm", "lines")
STATE = "var/lib/edgeloop-agent"  # as StateDirectory= makes it


@dataclass(frozen=True)
class Action:
    """One thing to do: a file to write, or a command to run."""

    description: str
    path: Path | None = None
    content: str = ""
    command: tuple[str, ...] = ()


def _answer_files(config: Config) -> list[Path]:
    return [Path(o.where) for o in config.outputs if o.kind == "lines" and o.where not in ("-", "none")]


def unit_of(config: Config, config_path: Path, program: str) -> str:
    """The unit file. The sandbox leaves the agent its own folders, its devices, and the network."""
    watchdog = int(config.limits.hang_seconds + 10)
    needs_devices = config.source.kind in DEVICE_KINDS or bool(config.runtime.delegate)
    groups = "SupplementaryGroups=video audio dialout\n" if needs_devices else ""
    devices = "" if needs_devices or config.runtime.providers else "PrivateDevices=yes\n"
    writable = sorted({str(file.parent) for file in _answer_files(config)})
    if config.source.kind == "watch" and config.source.after != "keep":
        writable.append(config.source.where)
    if config.state:
        writable.append(config.state)
    writes = f"ReadWritePaths={' '.join(map(_quoted, writable))}\n" if writable else ""
    source_is_remote = config.source.kind in ("mqtt", "snapshot") or "://" in config.source.where
    sends = any(output.kind != "lines" for output in config.outputs)
    local_only = not source_is_remote and not sends and not config.updates.hub and not config.split.enabled
    netlink = " AF_NETLINK" if config.source.kind in CAMERA_KINDS else ""  # where libcamera hears of devices
    families = f"AF_UNIX AF_INET AF_INET6{netlink}"
    addresses = "IPAddressDeny=any\nIPAddressAllow=localhost\n" if local_only and config.api.host in ("127.0.0.1", "::1") else ""
    return f"""\
[Unit]
Description=edgeloop agent: inference on this device
After=local-fs.target network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={_quoted(program)} serve {_argument(str(config_path))}
ExecReload=/bin/kill -HUP $MAINPID
User={USER}
{groups}StateDirectory=edgeloop-agent
Environment=ORT_DISABLE_TELEMETRY=1
Restart=always
RestartSec=5
WatchdogSec={watchdog}
TimeoutStartSec={int(config.limits.start_seconds)}
TimeoutStopSec={int(config.limits.drain_seconds + 5)}
KillMode=mixed
MemoryMax={int(config.limits.memory_bytes * 1.25)}
TasksMax=128
OOMPolicy=continue

NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
{devices}{writes}ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies={families}
{addresses}LockPersonality=yes
CapabilityBoundingSet=
AmbientCapabilities=
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
RemoveIPC=yes
UMask=0027

[Install]
WantedBy=multi-user.target
"""


def _quoted(path: str) -> str:
    """A path as systemd reads it: in quotes, with systemd's special characters escaped (systemd.syntax(7))."""
    if any(not c.isprintable() for c in path):
        raise UsageError(f"{path!r}: systemd does not accept such a name; rename the folder or the file")
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _argument(path: str) -> str:
    """The same in a command line, where $ begins a variable."""
    return _quoted(path).replace("$", "$$")


def service_state(config_path: Path, root: Path = Path("/")) -> Path | None:
    """The state folder of the service that is installed for this config; None where there is none."""
    try:
        unit = (root / "etc/systemd/system" / UNIT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    command = f" serve {_argument(str(config_path.resolve()))}"
    return root / STATE if any(line.startswith("ExecStart=") and line.endswith(command) for line in unit.splitlines()) else None


def plan(config: Config, config_path: Path, root: Path) -> list[Action]:
    """What is to be done, in order. `root`: another file system's root, where only files are written."""
    program = shutil.which("edgeloop-agent") or str(Path(sys.executable).with_name("edgeloop-agent"))
    unit = root / "etc/systemd/system" / UNIT
    here = root == Path("/")
    actions = []
    if here and not _user_exists():
        words = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", USER)
        actions.append(Action(f"make the system user {USER}", command=words))
    elif not here:
        line = f'u {USER} - "edgeloop agent"\n'
        path = root / "usr/lib/sysusers.d/edgeloop-agent.conf"
        actions.append(Action(f"write {path}", path, line))
    folders = [file.parent for file in _answer_files(config)]
    folders += [Path(config.state)] if config.state else []
    for folder in folders:
        if here and not folder.exists():
            make = ("install", "-d", "-o", USER, "-g", USER, "-m", "0750", str(folder))
            actions.append(Action(f"make the folder {folder}", command=make))
    if here and config.updates.enabled and not config.state:
        for folder in _enrolled_folders():
            actions += _enrolment(folder / "updates", root / STATE / "updates")
    actions.append(Action(f"write {unit}", unit, unit_of(config, config_path.resolve(), program)))
    if here:
        actions.append(Action("reload systemd", command=("systemctl", "daemon-reload")))
        actions.append(Action("start it, now and at every boot", command=("systemctl", "enable", "--now", UNIT)))
    return actions


def _enrolled_folders() -> list[Path]:
    """State folders of an earlier enrolment: root's, or that of the user who called sudo."""
    folders = [default_folder()]
    with contextlib.suppress(KeyError):
        folders.append(Path(pwd.getpwnam(os.environ["SUDO_USER"]).pw_dir) / ".local/state/edgeloop-agent")
    return next(([folder] for folder in folders if (folder / "updates/root.json").exists()), [])


def _enrolment(mine: Path, theirs: Path) -> list[Action]:
    """Actions that copy an earlier enrolment from the caller's folder to the service's."""
    names = [] if (theirs / "root.json").exists() else [n for n in ("root.json", "credential.json") if (mine / n).exists()]
    if not names or mine == theirs:
        return []
    own = ("-o", USER, "-g", USER)
    actions = [Action(f"make the folder {theirs}", command=("install", "-d", *own, "-m", "0700", str(theirs.parent), str(theirs)))]
    for name in names:
        words = ("install", *own, "-m", "0600", str(mine / name), str(theirs / name))
        actions.append(Action(f"copy {mine / name} to {theirs}", command=words))
    return actions


def carry_out(actions: list[Action]) -> None:
    """Carry the actions out. Raises StorageError or DeviceError at the first that fails; files are written by rename."""
    for action in actions:
        if action.path is not None:
            _write(action.path, action.content)
            continue
        try:
            done = subprocess.run(action.command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DeviceError(f"install: {' '.join(action.command)}: {error}; run as root, on a system with systemd") from error
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise DeviceError(f"install: {' '.join(action.command)}: {why[0]}; run as root, on a system with systemd")


def _user_exists() -> bool:
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return False
    return True


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, content.encode())
    except OSError as error:
        raise StorageError(f"install: {path}: cannot be written ({error.strerror}); run as root, or give --root") from error
