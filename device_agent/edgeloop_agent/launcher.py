"""Starts the agent that an update installed, or the packaged one: `python -m edgeloop_agent.launcher CONFIG`.

It belongs to the packaged agent, which no update changes, and is small on purpose: the standard library, the log, and the place of
the state. It reads the journal of the agent's own updates as plain JSON, so that a later agent may write more into it. What it
starts takes its place in the same process. A start on trial is counted first; after BOOTS_IN_TRIAL of them the update is given
back, and also where a trial does not end in time. With nothing to start, or anything unexpected, the packaged agent serves.

What later agents may rely on: the variables below, `-m edgeloop_agent.cli serve CONFIG` and `-m edgeloop_agent.updates.self_check
CONFIG` in the installed environment, SIGUSR1 to the supervisor, and this module's command.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeloop_agent.logs import Log
from edgeloop_agent.plain_journal import Table, is_tried, read, rejected, rolled_back, try_change
from edgeloop_agent.state_folder import default_folder

__all__ = [
    "ABOUT",
    "AGENT",
    "BOOTS_IN_TRIAL",
    "LAUNCHER",
    "chosen",
    "environment_of",
    "is_newer",
    "launch",
    "packaged",
    "packaged_environment",
    "relaunch",
    "state_of",
]

AGENT = "EDGELOOP_AGENT"  # the digest of the wheelhouse that runs; "": the packaged agent
LAUNCHER = "EDGELOOP_LAUNCHER"  # JSON: the packaged agent's `python`, `version`, and `variables` to set again
SEEN = "EDGELOOP_AGENT_JOURNAL"  # when the journal changed last (ns since 1970), as the launcher left it; 0: there is none
FOLDER = "EDGELOOP_AGENT_FOLDER"  # where the journal of the agent that runs is; not set for the packaged one
VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONDONTWRITEBYTECODE")
ABOUT = "agent.json"  # in an environment: its version, Python, machine, seconds of trial, and files with their sizes
BOOTS_IN_TRIAL = 3  # starts of something on trial, the switch included, before it is rolled back
MAX_STARTS = 5  # in a row of a trusted agent that never became ready, before it is given back too
PHASES = {"dev": -4, "a": -3, "b": -2, "rc": -1, "": 0, "post": 1}


@dataclass(frozen=True)
class Installed:
    """An environment that can be started. `shipped`: there is none, and the packaged agent is meant."""

    folder: Path
    slot: str
    sha256: str
    target: str
    version: str
    trial_seconds: float
    on_trial: bool
    shipped: bool = False

    @property
    def path(self) -> Path:
        return self.folder / f"env-{self.slot}"


def launch(config: Path) -> None:
    """Become the agent that is to serve; returns where that is the packaged one, or where this was started here already."""
    if AGENT in os.environ:
        return
    log, seen = Log("info"), 0
    try:
        table = _table(config)
        for installed in chosen(config, table, log):
            _become(installed, config, log)
        seen = _changed(_folder(config, table))
    except Exception as error:  # whatever is wrong with an update, an agent serves
        log("error", "the packaged agent serves", why=f"{type(error).__name__}: {error}")
    os.environ[AGENT], os.environ[SEEN] = "", str(seen)


def relaunch(config: Path) -> None:
    """Let the launcher choose again, in the place of this process. Returns only where that is impossible."""
    python = packaged()["python"]
    os.execve(python, [python, "-m", "edgeloop_agent.launcher", str(config)], packaged_environment())


def packaged() -> Table:
    """The packaged agent: interpreter, version, the variables that it was started with, and whether there is a way back to it."""
    if known := os.environ.get(LAUNCHER):
        table: Table = json.loads(known)
        return table
    from importlib.metadata import PackageNotFoundError, version  # here: it takes more memory than the rest of the supervisor

    try:
        here = version("edgeloop")
    except PackageNotFoundError:
        here = ""
    variables = {k: os.environ[k] for k in VARIABLES if k in os.environ}
    return {"python": sys.executable, "version": here, "variables": variables, "returns": True}


def environment_of(path: Path) -> dict[str, str]:
    """The variables with which Python finds what is installed at `path` first, and else what the packaged agent has."""
    known = packaged()
    before = known["variables"].get("PYTHONPATH", "")
    python = {"PYTHONPATH": f"{path}{os.pathsep}{before}".rstrip(os.pathsep), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, LAUNCHER: json.dumps(known), **python}


def packaged_environment() -> dict[str, str]:
    """The variables with which Python finds the packaged agent."""
    ours = (AGENT, FOLDER, LAUNCHER, SEEN, *VARIABLES)
    known: dict[str, str] = packaged()["variables"]
    return {k: v for k, v in os.environ.items() if k not in ours} | known


def is_newer(one: str, other: str) -> bool:
    """Whether a version is later than another, both as PEP 440 writes them; what cannot be read is the oldest."""
    return _order(one) > _order(other)


def _order(text: str) -> tuple[list[int], int, int]:
    import re

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
    folder = _folder(config, table)
    if folder is None:
        return
    journal = read(folder)
    trial = journal.get("trial")
    if isinstance(trial, dict):
        slot, boots = trial.get("slot"), int(trial.get("boots", 0))
        why = f"started {boots} times without passing its trial" if boots >= BOOTS_IN_TRIAL else ""
        installed = _installed(folder, journal, slot, True, log)
        if why or installed is None:
            why = why or "its files are not whole, or it is not for this device, or not later than the packaged agent"
            log("error", "agent rolled back", slot=slot, why=why)
            try_change(log, folder, lambda j: rolled_back(j, slot, why))
        elif try_change(log, folder, lambda j: {**j, "trial": {**j["trial"], "boots": boots + 1}} if j.get("trial") else j):
            yield installed
    journal = read(folder)
    installed = _installed(folder, journal, journal.get("active"), False, log)
    if installed is not None and (installed.shipped or _counted(installed, log)):
        yield installed


def _folder(config: Path, table: Table) -> Path | None:
    """Of the agent that the device follows; None: it follows none."""
    name = _section(table, "updates").get("agent")
    if not isinstance(name, str) or not name:
        return None
    from urllib.parse import quote  # here, as in what follows: most devices follow no agent, and the supervisor is small

    return _state(config, table) / "updates" / "others" / quote(f"agent:{name}", safe="")


def _changed(folder: Path | None) -> int:
    try:
        return (folder / "journal.json").stat().st_mtime_ns if folder is not None else 0
    except OSError:
        return 0


def state_of(config: Path) -> Path | None:
    """The agent's state folder; None where the config cannot be read."""
    table = _table(config)
    return _state(config, table) if table else None


def _state(config: Path, table: Table) -> Path:
    named = table.get("state")
    if isinstance(named, str) and named:
        return config.resolve().parent / Path(named).expanduser()
    first = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(first) if first else default_folder()


def _installed(folder: Path, journal: Table, slot: object, on_trial: bool, log: Log) -> Installed | None:
    """The environment of a slot, where it is whole, fits this Python, and is newer than the packaged agent."""
    import platform

    entry = journal.get(slot) if slot in ("a", "b") else None
    if not isinstance(entry, dict):
        return None
    here = packaged()["version"]
    try:
        if entry.get("shipped"):
            seconds = float(journal["trial"].get("seconds", 0.0)) if on_trial else 0.0
            return Installed(folder, str(slot), str(entry["sha256"]), str(entry["target"]), here, seconds, on_trial, True)
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
        try_change(log, installed.folder, lambda j: rejected({**j, "active": None}, installed.sha256, installed.target, why))
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
    return bool(folder) and is_tried(read(Path(folder or "")), os.environ.get(AGENT, ""))


def _become(installed: Installed, config: Path, log: Log) -> None:
    """Returns only where it cannot be started."""
    from edgeloop_agent.trial_guard import guard

    python = packaged_environment() if installed.shipped else environment_of(installed.path)
    environment = {**python, AGENT: installed.sha256, FOLDER: str(installed.folder)}
    environment[SEEN] = str(_changed(installed.folder))
    log("info", "agent", version=installed.version, target=installed.target, on_trial=installed.on_trial)
    if installed.on_trial:
        try:
            guard(installed.folder, installed.slot, installed.sha256, installed.target, installed.trial_seconds, log)
        except OSError as error:  # a kernel before 5.3
            log("warning", "nobody watches the trial from outside", why=error)
    program = packaged()["python"]
    try:
        os.execve(program, [program, "-m", "edgeloop_agent.cli", "serve", str(config)], environment)
    except OSError as error:
        log("error", "the installed agent cannot be started", target=installed.target, why=error)


def main(config: Path) -> None:
    launch(config)
    python = packaged()["python"]
    os.execv(python, [python, "-m", "edgeloop_agent.cli", "serve", str(config)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
