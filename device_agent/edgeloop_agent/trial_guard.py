"""Ends a trial that nobody ends: a new agent that hangs, and says that it is well, is given back too.

The launcher starts it beside a new agent, in a process of its own, which belongs to the packaged agent and ends with the trial.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time
from pathlib import Path

from edgeloop_agent.logs import Log
from edgeloop_agent.plain_journal import is_tried, read, rolled_back, try_change

__all__ = ["guard"]

MARGIN_SECONDS = 60.0  # beyond start and trial, before a trial that nobody ended is ended from outside
STOP_SECONDS = 20.0  # for another choice, before the agent is killed


def guard(folder: Path, slot: str, sha256: str, target: str, trial_seconds: float, log: Log) -> None:
    """Watch this process, which becomes the agent of that slot. Raises OSError where no process can be made."""
    main, seconds = os.pidfd_open(os.getpid()), trial_seconds + MARGIN_SECONDS
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
            _watch(folder, slot, sha256, target, main, seconds, log)
    finally:
        os._exit(0)


def _watch(folder: Path, slot: str, sha256: str, target: str, main: int, seconds: float, log: Log) -> None:
    deadline, why = time.monotonic() + seconds, f"not healthy within {seconds:g} s of its start"
    while is_tried(read(folder), sha256):
        if select.select([main], [], [], min(5.0, max(0.0, deadline - time.monotonic())))[0]:
            return  # the agent ended; whoever starts it again counts
        if time.monotonic() >= deadline:
            break
    else:
        return
    log("error", "agent rolled back", target=target, why=why)
    try_change(log, folder, lambda j: rolled_back(j, slot, why) if is_tried(j, sha256) else j)
    signal.pidfd_send_signal(main, signal.SIGUSR1)  # another choice, where it listens
    if not select.select([main], [], [], STOP_SECONDS)[0] and _runs(main, sha256):
        signal.pidfd_send_signal(main, signal.SIGKILL)  # the service's manager starts the launcher


def _runs(main: int, sha256: str) -> bool:
    """Whether the process is still the agent that was on trial. It keeps its number when another one takes its place."""
    found = re.search(r"^Pid:\s*(\d+)", Path(f"/proc/self/fdinfo/{main}").read_text(), re.MULTILINE)
    if found is None:
        return False
    return f"\0EDGELOOP_AGENT={sha256}\0".encode() in b"\0" + Path(f"/proc/{found[1]}/environ").read_bytes()
