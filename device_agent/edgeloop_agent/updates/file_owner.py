"""Where commands on the device write for the running service: its folder, as its user."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from edgeloop_agent.config import Config
from edgeloop_agent.install import UNIT, service_state
from edgeloop_agent.updates.journal import update_folder
from edgeloop_contract.errors import StorageError, UsageError


@dataclass(frozen=True)
class StateOwner:
    """`config`: with the service's state folder. `user`: of the service; "" where none is installed for this config."""

    config: Config
    user: str

    @property
    def folder(self) -> Path:
        return update_folder(self.config)

    def description(self) -> str:
        return f"kept in {self.folder}" + ("" if self.user else ", for an agent of this user; install copies it to the service")

    def become(self) -> None:
        """Change to the service's user, so that the service can read what this process writes. Raises StorageError."""
        if not self.user or os.getuid() != 0:
            return
        user, folder = pwd.getpwnam(self.user), self.folder.parent
        try:
            if not folder.exists():  # systemd makes it at the first start
                folder.mkdir(parents=True, mode=0o755)
                os.chown(folder, user.pw_uid, user.pw_gid)
            os.initgroups(self.user, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        except OSError as error:
            raise StorageError(f"{folder}: cannot be given to {self.user} ({error.strerror})") from error


def state_owner(config: Config, config_path: Path, command: str = "", root: Path = Path("/")) -> StateOwner:
    """The service's folder where one is installed for this config, else the caller's.

    `command`: what wants to write there, and is to be run with sudo where it may not. Raises UsageError then.
    """
    state = service_state(config_path, root)
    if state is None:
        return StateOwner(config, "")
    unit = (root / "etc/systemd/system" / UNIT).read_text(encoding="utf-8")
    user = next((line.removeprefix("User=") for line in unit.splitlines() if line.startswith("User=")), "root")
    owner = StateOwner(config if config.state else replace(config, state=str(state)), user)
    if command and os.getuid() not in (0, _number(user)):
        raise UsageError(f"the installed service keeps its state in {owner.folder.parent}, as {user}; run: sudo {command}")
    return owner


def _number(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise UsageError(f"{UNIT} runs as {user}, and there is no such user; run edgeloop-agent install again") from error
