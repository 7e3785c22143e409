"""The journal of the agent's own updates as the launcher reads and writes it: plain JSON, with whatever a later agent adds to it.

The standard library alone; the same files and the same lock as `updates.journal`, which has the rules of everybody else.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeloop_agent.logs import Log
from edgeloop_contract.files import publish

__all__ = ["Table", "is_tried", "read", "rejected", "rolled_back", "try_change"]

Table = dict[str, Any]


def read(folder: Path) -> Table:
    try:
        found = json.loads((folder / "journal.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_tried(journal: Table, sha256: str) -> bool:
    trial = journal.get("trial")
    slot = journal.get(str(trial.get("slot"))) if isinstance(trial, dict) else None
    return isinstance(slot, dict) and slot.get("sha256") == sha256


def _change(folder: Path, rule: Callable[[Table], Table]) -> None:
    """Load, apply, save, with no other process in between; the same lock and file as `updates.journal`."""
    with (folder / "journal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        old = read(folder)
        new = rule(old)
        if new != old:
            publish(folder / "journal.json", json.dumps(new).encode())


def try_change(log: Log, folder: Path, rule: Callable[[Table], Table]) -> bool:
    try:
        _change(folder, rule)
    except OSError as error:
        log("error", "journal", why=error)
        return False
    return True


def rolled_back(journal: Table, slot: object, why: str) -> Table:
    """End the trial; this wheelhouse is not tried again."""
    entry = journal.get(str(slot))
    sha256, target = (entry.get("sha256", ""), entry.get("target", "")) if isinstance(entry, dict) else ("", "")
    return rejected({**journal, "trial": None}, sha256, target, why)


def rejected(journal: Table, sha256: str, target: str, why: str) -> Table:
    import secrets  # here: it brings OpenSSL

    event = {"key": secrets.token_hex(16), "kind": "rolled-back", "at": time.time(), "target": target, "text": why}
    bad = [*journal.get("bad", []), {"sha256": sha256, "why": why}][-32:]
    return {**journal, "bad": bad, "events": [*journal.get("events", []), event][-64:]}
