"""Which config the agent runs: its own file, or the one that a rollout brought. `python -m …config_slots CONFIG [WHY]`.

The supervisor asks before each start of the worker. It prints the path of the file, or nothing for the device's own, and behind a
NUL when the journal changed last (ns since 1970). A start of a config on trial is counted. WHY: the config on trial could not be
run, and is given back first.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from edgeloop_agent.config import ROLLED_OUT, Config, load, secrets_in_addresses
from edgeloop_agent.logs import Log
from edgeloop_agent.updates.journal import Running, UpdateFolder, update_folder
from edgeloop_agent.updates.slots import candidates, damaged, rolled_back, try_change
from edgeloop_contract.errors import UsageError
from edgeloop_contract.publications import CONFIG_MODEL


def folder_of(config: Config) -> UpdateFolder:
    """Where the config that this device follows is kept."""
    return UpdateFolder(update_folder(config)).of_config(config.updates.config)


def choose(own: Config, path: Path, log: Log, why: str = "") -> Path | None:
    """The file of the newest intact config that this device can run; None: its own, and `path`: its own by a rollout.

    Counts a start of one on trial.
    """
    folder = folder_of(own)
    if why:
        log("error", "config rolled back", why=why)
        try_change(log, folder, lambda j: rolled_back(j, why))
    for name in candidates(folder, log):
        file, slot = folder.slot(name), folder.load().slot(name)
        if slot is not None and slot.shipped:
            return path
        if slot is None or digest_of(file) != slot.sha256:
            damaged(folder, name, log)
            continue
        try:
            new = load(path, file)
            if problems := list(problems_for(own, new, file)):
                raise UsageError("; ".join(problems))
        except UsageError as error:  # a file that it names is gone since
            log("error", "config has problems: the one before it is used", target=slot.target, why=error)
            if (trial := folder.load().trial) is not None and trial.slot == name:
                said = str(error)
                try_change(log, folder, lambda j, said=said: rolled_back(j, said))  # type: ignore[misc]
            continue
        return file
    return None


def problems_for(own: Config, new: Config, file: Path) -> Iterator[str]:
    """Why a rolled-out config must not take the place of the device's own, in sentences."""
    for name, mine, theirs in (
        ("state", own.state, new.state),
        *(
            (f"updates.{key}", getattr(own.updates, key), getattr(new.updates, key))
            for key in ("hub", "folder", "ca_file", "config", "agent")
        ),
    ):
        if mine != theirs:
            yield (
                f"{name}: {theirs or 'not set'!r}, and this device has {mine or 'not set'!r}; a rollout does not change where"
                " updates come from or where they are kept: write the same, or change it on the device"
            )
    yield from secrets_in_addresses(file.read_text(encoding="utf-8"))


def digest_of(file: Path) -> str:
    """ "" where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def check(path: Path, own: Config, timeout_seconds: float, file: Path) -> str | None:
    """Why the agent cannot run with this config on this device, in its own sentence; None where it can.

    `path`: the device's own file. The check is a process of its own: it loads the models as the config says.
    """
    try:
        if file.resolve() != path.resolve() and (problems := list(problems_for(own, load(path, file), file))):
            return "; ".join(problems)
    except UsageError as error:
        return str(error).replace(str(path), "the config", 1)
    words = [sys.executable, "-m", "edgeloop_agent.cli", "check", str(path)]
    environment = {**os.environ, ROLLED_OUT: str(file)}
    try:
        done = subprocess.run(
            words, capture_output=True, timeout=timeout_seconds, check=False, stdin=subprocess.DEVNULL, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"edgeloop-agent check did not end within {timeout_seconds:g} s"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().rpartition("edgeloop-agent: ")[2]
    return said or f"edgeloop-agent check died ({done.returncode})"


def sha256_in_use(folder: UpdateFolder, file: Path) -> str:
    """By which the hub and the journal know the config in use; of the device's own file that of the return to it, if it was one."""
    slot = folder.load().running
    if slot is not None and slot.shipped and file.parent != folder.path:
        return slot.sha256
    return digest_of(file)


def running_config(config: Config, file: Path) -> tuple[Running, str]:
    """The config in use as the hub knows it, and its target's name. The device's own file has version 0. `file`: that is in use."""
    sha256 = sha256_in_use(folder_of(config), file)
    journal = folder_of(config).load()
    slot = next((s for s in (journal.a, journal.b) if s is not None and s.sha256 == sha256), None)
    running = Running(CONFIG_MODEL + config.updates.config, slot.version if slot else 0, sha256)
    return running, slot.target if slot else ""


def main(path: Path, why: str) -> None:
    own = load(path)
    file = choose(own, path, Log(own.log.level), why)
    try:
        seen = (folder_of(own).path / "journal.json").stat().st_mtime_ns
    except OSError:
        seen = 0
    sys.stdout.write(f"{'' if file is None else file}\0{seen}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
