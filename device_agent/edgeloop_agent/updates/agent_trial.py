"""The trial of a new agent, in its own worker, and the switch to one that is staged. Another agent needs another supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeloop_agent.config import Updates
from edgeloop_agent.launcher import AGENT, SEEN
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.policy import trial_verdict
from edgeloop_agent.updates.slots import committed, rolled_back, try_change

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts


def ask_for_launcher() -> None:
    """Let the supervisor end this worker, and then the launcher choose; a worker without one goes on."""
    if "EDGELOOP_RESTARTS" in os.environ and AGENT in os.environ:
        os.kill(os.getppid(), signal.SIGUSR1)


@dataclass
class AgentTrial:
    """`again`: has the launcher choose anew."""

    folder: UpdateFolder
    counts: Counts
    log: Log
    settings: Updates
    again: Callable[[], None] = ask_for_launcher

    def __post_init__(self) -> None:
        # What the launcher could not start, as where it cannot write, is not asked of it again until something changes.
        self.seen_journal = int(os.environ.get(SEEN, "-1"))
        self.began: float | None = None
        self.sha256 = os.environ.get(AGENT, "")
        journal = self.folder.load()
        slot = journal.running
        if journal.trial is not None and slot is not None and slot.sha256 == self.sha256:
            self.began = time.monotonic()
            self.log("info", "agent on trial", target=slot.target, seconds=self.settings.health_seconds)

    def tick(self) -> None:
        if self.began is not None:
            self._judge()
            return
        try:
            changed = (self.folder.path / "journal.json").stat().st_mtime_ns
        except OSError:
            return
        if changed != self.seen_journal:
            self.seen_journal = changed
            journal = self.folder.load()
            if journal.trial is not None and journal.running is not None and journal.running.sha256 != self.sha256:
                self.log("info", "another agent is staged: this one makes way for it", target=journal.running.target)
                self.again()

    def _judge(self) -> None:
        assert self.began is not None
        refused = sum(self.counts.refused.values())
        verdict = trial_verdict(self.began, time.monotonic(), self.settings.health_seconds, self.counts.answered, refused)
        if verdict is None:
            return
        self.began = None
        slot = self.folder.load().running
        target = slot.target if slot is not None else ""
        if not verdict:
            if try_change(self.log, self.folder, committed) is not None:
                self.log("info", "agent committed", target=target)
            return
        self.log("error", "agent rolled back", target=target, why=verdict)
        try_change(self.log, self.folder, lambda j: rolled_back(j, verdict))
        self.again()
