"""The agent as a systemd service: what has to be made is planned first, shown if asked for, then done."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.config import Config
from edgeloop_contract.errors import DeviceError, StorageError

UNIT = "edgeloop-agent.service"
USER = "edgeloop-agent"


@dataclass(frozen=True)
class Action:
    """One thing to do: a file to write, or a command to run."""

    says: str
    path: Path | None = None
    content: str = ""
    command: tuple[str, ...] = ()


def unit_of(config: Config, config_path: Path, program: str) -> str:
    """The unit file. The sandbox leaves the agent its own folders, its devices, and the network."""
    watchdog = int(config.limits.hang_seconds + 10)
    needs_devices = config.source.kind in ("camera", "microphone", "lines") or bool(config.runtime.delegate)
    groups = "SupplementaryGroups=video audio dialout\n" if needs_devices else ""
    devices = "" if needs_devices or config.runtime.providers else "PrivateDevices=yes\n"
    writable = sorted({str(Path(p).parent) for p in (config.output.where,) if p not in ("-", "none")})
    if config.source.kind == "watch" and config.source.after == "delete":
        writable.append(config.source.where)
    writes = f"ReadWritePaths={' '.join(writable)}\n" if writable else ""
    local_only = config.source.kind != "mqtt" and not config.updates.hub
    families = "AF_UNIX AF_INET AF_INET6"
    addresses = "IPAddressDeny=any\nIPAddressAllow=localhost\n" if local_only and config.api.host in ("127.0.0.1", "::1") else ""
    return f"""\
[Unit]
Description=edgeloop agent: inference on this device
After=local-fs.target network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart="{program}" serve "{config_path}"
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
    output = Path(config.output.where).parent
    if here and config.output.where not in ("-", "none") and not output.exists():
        make = ("install", "-d", "-o", USER, "-g", USER, "-m", "0750", str(output))
        actions.append(Action(f"make the folder {output}", command=make))
    actions.append(Action(f"write {unit}", unit, unit_of(config, config_path.resolve(), program)))
    if here:
        actions.append(Action("let systemd read it", command=("systemctl", "daemon-reload")))
        actions.append(Action("start it, now and at every boot", command=("systemctl", "enable", "--now", UNIT)))
    return actions


def do(actions: list[Action]) -> None:
    """Carry them out. Raises StorageError or DeviceError at the first that fails; files are written by rename."""
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
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StorageError(f"install: {path}: cannot be written ({error.strerror}); run as root, or give --root") from error
