"""The trial of a new agent, in its own worker, and the switch to one that is staged. Another agent needs another supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeloop_agent.config import Updates
from edgeloop_agent.launcher import AGENT, SEEN
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.own_trial import OwnTrial

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts


def ask_for_launcher() -> None:
    """Let the supervisor end this worker, and then the launcher choose; a worker without one goes on."""
    if "EDGELOOP_RESTARTS" in os.environ and AGENT in os.environ:
        os.kill(os.getppid(), signal.SIGUSR1)


def agent_trial(
    folder: UpdateFolder, counts: Counts, log: Log, settings: Updates, again: Callable[[], None] = ask_for_launcher
) -> OwnTrial:  # fmt: skip
    """Of the agent that runs this worker."""
    seen = int(os.environ.get(SEEN, "-1"))
    return OwnTrial("agent", os.environ.get(AGENT, ""), folder, counts, log, settings, again, seen)
