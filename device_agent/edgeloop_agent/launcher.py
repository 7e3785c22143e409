"""Starts the agent that an update installed, or the packaged one: `python -m edgeloop_agent.launcher CONFIG`.

It belongs to the packaged agent, which no update changes, and is small on purpose: the standard library, the log, and the place of
the state. It reads the journal of the agent's own updates as plain JSON, so that a later agent may write more into it. What it
starts takes its place in the same process. A start on trial is counted first; after BOOTS_IN_TRIAL of them the update is given
back, and also where a trial does not end in time. With nothing to start, or anything unexpected, the packaged agent serves.

What later agents may rely on: the variables below, `-m edgeloop_agent.cli serve CONFIG` and `-m edgeloop_agent.updates.self_check
CONFIG` in the installed environment, SIGUSR1 to the supervisor, and this module's command.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import secrets
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgeloop_agent.logs import Log
from edgeloop_agent.state_folder import default_folder
from edgeloop_contract.files import publish

__all__ = ["ABOUT", "AGENT", "BOOTS_IN_TRIAL", "LAUNCHER", "chosen", "environment_of", "is_newer", "launch", "packaged", "relaunch"]

AGENT = "EDGELOOP_AGENT"  # the digest of the wheelhouse that runs; "": the packaged agent
LAUNCHER = "EDGELOOP_LAUNCHER"  # JSON: the packaged agent's `python`, `version`, and `variables` to set again
FOLDER = "EDGELOOP_AGENT_FOLDER"  # where the journal of the agent that runs is; not set for the packaged one
VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE")
ABOUT = "agent.json"  # in an environment: its version, Python, machine, seconds of trial, and files with their sizes
BOOTS_IN_TRIAL = 3  # starts of something on trial, the switch included, before it is rolled back
MAX_STARTS = 5  # in a row of a trusted agent that never became ready, before it is given back too
MARGIN_SECONDS = 60.0  # beyond start and trial, before a trial that nobody ended is ended from outside
STOP_SECONDS = 20.0
PHASES = {"dev": -4, "a": -3, "b": -2, "rc": -1, "": 0, "post": 1}

Table = dict[str, Any]


@dataclass(frozen=True)
class Installed:
    """An environment that can be started."""

    folder: Path
    slot: str
    sha256: str
    target: str
    version: str
    trial_seconds: float
    on_trial: bool

    @property
    def path(self) -> Path:
        return self.folder / f"env-{self.slot}"


def launch(config: Path) -> None:
    """Become the agent that is to serve; returns where that is the packaged one, or where this was started here already."""
    if AGENT in os.environ:
        return
    log = Log("info")
    try:
        for installed in chosen(config, _table(config), log):
            _become(installed, config, log)
    except Exception as error:  # whatever is wrong with an update, an agent serves
        log("error", "the packaged agent serves", why=f"{type(error).__name__}: {error}")
    os.environ[AGENT] = ""


def relaunch(config: Path) -> None:
    """Let the launcher choose again, in the place of this process. Returns only where that is impossible."""
    known = packaged()
    environment = {k: v for k, v in os.environ.items() if k not in (AGENT, FOLDER, *VARIABLES)} | known["variables"]
    os.execve(known["python"], [known["python"], "-m", "edgeloop_agent.launcher", str(config)], environment)


def packaged() -> Table:
    """The packaged agent: its interpreter, its version, and the variables that it was started with."""
    if known := os.environ.get(LAUNCHER):
        table: Table = json.loads(known)
        return table
    from importlib.metadata import PackageNotFoundError, version  # here: it takes more memory than the rest of the supervisor

    try:
        here = version("edgeloop")
    except PackageNotFoundError:
        here = ""
    return {"python": sys.executable, "version": here, "variables": {k: os.environ[k] for k in VARIABLES if k in os.environ}}


def environment_of(path: Path) -> dict[str, str]:
    """The variables with which Python finds what is installed at `path` first, and else what the packaged agent has."""
    known = packaged()
    before = known["variables"].get("PYTHONPATH", "")
    python = {"PYTHONPATH": f"{path}{os.pathsep}{before}".rstrip(os.pathsep), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, LAUNCHER: json.dumps(known), **python}


def is_newer(one: str, other: str) -> bool:
    """Whether a version is later than another, both as PEP 440 writes them; what cannot be read is the oldest."""
    return _order(one) > _order(other)


def _order(text: str) -> tuple[list[int], int, int]:
    found = re.match(r"v?(\d{1,9}(?:\.\d{1,9})*)[._-]?(dev|a|b|rc|post|)\.?(\d{0,9})", text)
    if found is None:
        return [], 0, 0
    numbers = [int(n) for n in found[1].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers, PHASES[found[2]], int(found[3] or 0)


def _table(config: Path) -> Table:
    """The config as it is written; an empty one where it cannot be read: the packaged agent says what is wrong with it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # pragma: no cover
        import tomli as tomllib
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _section(table: Table, name: str) -> Table:
    found = table.get(name)
    return found if isinstance(found, dict) else {}


def chosen(config: Path, table: Table, log: Log) -> Iterator[Installed]:
    """What is to be started, the first choice first. Counts a start of each that is taken from it."""
    name = _section(table, "updates").get("agent")
    if not isinstance(name, str) or not name:
        return
    folder = _state(config, table) / "updates" / "others" / quote(f"agent:{name}", safe="")
    journal = _journal(folder)
    trial = journal.get("trial")
    if isinstance(trial, dict):
        slot, boots = trial.get("slot"), int(trial.get("boots", 0))
        why = f"started {boots} times without passing its trial" if boots >= BOOTS_IN_TRIAL else ""
        installed = _installed(folder, journal, slot, True, log)
        if why or installed is None:
            why = why or "its files are not whole, or not for this device"
            log("error", "agent rolled back", slot=slot, why=why)
            _try(log, folder, lambda j: _rolled_back(j, slot, why))
        elif _try(log, folder, lambda j: {**j, "trial": {**j["trial"], "boots": boots + 1}} if j.get("trial") else j):
            yield installed
    journal = _journal(folder)
    installed = _installed(folder, journal, journal.get("active"), False, log)
    if installed is not None and _counted(installed, log):
        yield installed


def _state(config: Path, table: Table) -> Path:
    named = table.get("state")
    if isinstance(named, str) and named:
        return config.resolve().parent / Path(named).expanduser()
    first = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(first) if first else default_folder()


def _journal(folder: Path) -> Table:
    try:
        found = json.loads((folder / "journal.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _installed(folder: Path, journal: Table, slot: object, on_trial: bool, log: Log) -> Installed | None:
    """The environment of a slot, where it is whole, fits this Python, and is newer than the packaged agent."""
    entry = journal.get(slot) if slot in ("a", "b") else None
    if not isinstance(entry, dict):
        return None
    here = packaged()["version"]
    try:
        about = json.loads((folder / f"env-{slot}" / ABOUT).read_bytes())
        sha256, target, version, seconds = entry["sha256"], entry["target"], about["version"], float(about["trial_seconds"])
        found = Installed(folder, str(slot), str(sha256), str(target), str(version), seconds, on_trial)
        python, machine = f"{sys.version_info.major}.{sys.version_info.minor}", about["machine"] or platform.machine()
        if (about["python"], machine, about["sha256"]) != (python, platform.machine(), found.sha256):
            raise ValueError(f"it is for Python {about['python']} on {machine}")
        if not is_newer(found.version, here):
            log("info", "the packaged agent is not older than the installed one", packaged=here, installed=found.version)
            return None
        for name, size in about["files"].items():
            if (found.path / name).stat().st_size != size:
                raise ValueError(f"{name} is damaged")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log("error", "the installed agent cannot be used", target=entry.get("target"), why=error)
        return None
    return found


def _counted(installed: Installed, log: Log) -> bool:
    """Count a start of a trusted agent; False where it has failed too often, and is given back. `started` ends the count."""
    path, count = installed.folder / "starts.json", 0
    try:
        sha256, count = json.loads(path.read_bytes())
        count = int(count) if sha256 == installed.sha256 else 0
    except (OSError, ValueError, TypeError):
        pass
    if count >= MAX_STARTS:
        why = f"started {count} times in a row without becoming ready"
        log("error", "agent rolled back", target=installed.target, why=why)
        _try(log, installed.folder, lambda j: _rejected({**j, "active": None}, installed.sha256, installed.target, why))
        return False
    try:
        path.write_text(json.dumps([installed.sha256, count + 1]), encoding="utf-8")
    except OSError as error:
        log("error", "starts are not counted", why=error)
    return True


def started() -> None:
    """The installed agent that runs here is ready, or has ended as it should: its starts count anew."""
    if folder := os.environ.get(FOLDER):
        try:
            (Path(folder) / "starts.json").unlink(missing_ok=True)
        except OSError:
            return


def is_on_trial() -> bool:
    """Whether the agent that runs here is on trial."""
    folder = os.environ.get(FOLDER)
    return bool(folder) and _is_tried(_journal(Path(folder or "")), os.environ.get(AGENT, ""))


def _is_tried(journal: Table, sha256: str) -> bool:
    trial = journal.get("trial")
    slot = journal.get(str(trial.get("slot"))) if isinstance(trial, dict) else None
    return isinstance(slot, dict) and slot.get("sha256") == sha256


def _change(folder: Path, rule: Callable[[Table], Table]) -> None:
    """Load, apply, save, with no other process in between; the same lock and file as `updates.journal`."""
    with (folder / "journal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = _journal(folder)
        new = rule(old)
        if new != old:
            publish(folder / "journal.json", json.dumps(new).encode())


def _try(log: Log, folder: Path, rule: Callable[[Table], Table]) -> bool:
    try:
        _change(folder, rule)
    except OSError as error:
        log("error", "journal", why=error)
        return False
    return True


def _rolled_back(journal: Table, slot: object, why: str) -> Table:
    """End the trial; this wheelhouse is not tried again."""
    entry = journal.get(str(slot))
    sha256, target = (entry.get("sha256", ""), entry.get("target", "")) if isinstance(entry, dict) else ("", "")
    return _rejected({**journal, "trial": None}, sha256, target, why)


def _rejected(journal: Table, sha256: str, target: str, why: str) -> Table:
    event = {"key": secrets.token_hex(16), "kind": "rolled-back", "at": time.time(), "target": target, "text": why}
    bad = [*journal.get("bad", []), {"sha256": sha256, "why": why}][-32:]
    return {**journal, "bad": bad, "events": [*journal.get("events", []), event][-64:]}


def _become(installed: Installed, config: Path, log: Log) -> None:
    """Returns only where it cannot be started."""
    environment = {**environment_of(installed.path), AGENT: installed.sha256, FOLDER: str(installed.folder)}
    log("info", "agent", version=installed.version, target=installed.target, on_trial=installed.on_trial)
    if installed.on_trial:
        _guard(installed, log)
    python = packaged()["python"]
    try:
        os.execve(python, [python, "-m", "edgeloop_agent.cli", "serve", str(config)], environment)
    except OSError as error:
        log("error", "the installed agent cannot be started", target=installed.target, why=error)


def _guard(installed: Installed, log: Log) -> None:
    """A process that ends a trial which nobody ends: a new agent that hangs, and says that it is well, is given back too."""
    main, seconds = os.pidfd_open(os.getpid()), installed.trial_seconds + MARGIN_SECONDS
    if (child := os.fork()) > 0:
        os.close(main)
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            _watch(installed, main, time.monotonic() + seconds, f"not healthy within {seconds:g} s of its start", log)
    finally:
        os._exit(0)


def _watch(installed: Installed, main: int, deadline: float, why: str, log: Log) -> None:
    while _is_tried(_journal(installed.folder), installed.sha256):
        if select.select([main], [], [], min(5.0, max(0.0, deadline - time.monotonic())))[0]:
            return  # the agent ended; whoever starts it again counts
        if time.monotonic() >= deadline:
            break
    else:
        return
    log("error", "agent rolled back", target=installed.target, why=why)
    _try(log, installed.folder, lambda j: _rolled_back(j, installed.slot, why) if _is_tried(j, installed.sha256) else j)
    signal.pidfd_send_signal(main, signal.SIGUSR1)  # another choice, where it listens
    if not select.select([main], [], [], STOP_SECONDS)[0] and _runs(main, installed.sha256):
        signal.pidfd_send_signal(main, signal.SIGKILL)  # the service's manager starts the launcher


def _runs(main: int, sha256: str) -> bool:
    """Whether the process is still the agent that was on trial. It keeps its number when another one takes its place."""
    found = re.search(r"^Pid:\s*(\d+)", Path(f"/proc/self/fdinfo/{main}").read_text(), re.MULTILINE)
    if found is None:
        return False
    return f"\0{AGENT}={sha256}\0".encode() in b"\0" + Path(f"/proc/{found[1]}/environ").read_bytes()


def main(config: Path) -> None:
    launch(config)
    python = packaged()["python"]
    os.execv(python, [python, "-m", "edgeloop_agent.cli", "serve", str(config)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
