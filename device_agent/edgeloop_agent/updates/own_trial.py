"""The trial of what a worker itself runs by, such as its config or its agent, in that worker: another one needs another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeloop_agent.config import Updates
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.policy import trial_verdict
from edgeloop_agent.updates.slots import committed, rolled_back, try_change

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts


@dataclass
class OwnTrial:
    """`what`: "config" or "agent"; `sha256`: of the one that runs; `again`: has it chosen anew.

    `seen`: when the journal had changed last (ns since 1970) as the one was chosen. What could not be started then, as where the
    disk is full, is not asked for again until the journal changes. `may_begin`: it came by a rollout. `source_counts`: a source
    that is not available is its fault.
    """

    what: str
    sha256: str
    folder: UpdateFolder
    counts: Counts
    log: Log
    settings: Updates
    again: Callable[[], None]
    seen: int = -1
    may_begin: bool = True
    source_counts: bool = False

    def __post_init__(self) -> None:
        self.began: float | None = None
        journal = self.folder.load()
        slot = journal.running
        if self.may_begin and journal.trial is not None and slot is not None and slot.sha256 == self.sha256:
            self.began = time.monotonic()
            self.log("info", f"{self.what} on trial", target=slot.target, seconds=self.settings.health_seconds)

    def tick(self) -> None:
        if self.began is not None:
            self._judge()
            return
        try:
            changed = (self.folder.path / "journal.json").stat().st_mtime_ns
        except OSError:
            return
        if changed != self.seen:
            self.seen = changed
            journal = self.folder.load()
            if journal.trial is not None and journal.running is not None and journal.running.sha256 != self.sha256:
                self.log("info", f"another {self.what} is staged: this one makes way for it", target=journal.running.target)
                self.again()

    def _judge(self) -> None:
        assert self.began is not None
        refused = sum(self.counts.refused.values())
        verdict = trial_verdict(self.began, time.monotonic(), self.settings.health_seconds, self.counts.answered, refused)
        if verdict is None:
            return
        if not verdict and self.source_counts and self.counts.source_unavailable:
            verdict = f"the source is not available: {self.counts.source_unavailable}"
        self.began = None
        slot = self.folder.load().running
        target = slot.target if slot is not None else ""
        if not verdict:
            if try_change(self.log, self.folder, committed) is not None:
                self.log("info", f"{self.what} committed", target=target)
            return
        self.log("error", f"{self.what} rolled back", target=target, why=verdict)
        try_change(self.log, self.folder, lambda j: rolled_back(j, verdict))
        self.again()
