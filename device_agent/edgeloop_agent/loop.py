"""The inference loop: a recording is cleaned, prepared and answered, one after the other.

Between one and the next nothing waits for a disk: answers are written and recordings settled by threads of outputs/ and
settling.py, everything else is done by that of chores.py, and what both change is changed here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent.answering import Answering, AnswerLine, Observer
from edgeloop_agent.chores import Chores
from edgeloop_agent.config import Config
from edgeloop_agent.feed import Feed
from edgeloop_agent.in_flight import InFlight
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.outputs.fan_out import Outputs
from edgeloop_agent.outputs.ticket import Ticket
from edgeloop_agent.settling import Settling
from edgeloop_agent.sources import Outcome, Recording, acknowledge_nothing, waits_when_full

if TYPE_CHECKING:
    from edgeloop_agent.page.live_view import LiveView
    from edgeloop_agent.tracking.following import Following

IDLE_SECONDS = 0.5
MAX_FAILURES = 5
LINES_AT_ONCE = 32
CLOSE_SECONDS = 1.5  # beyond drain_seconds, for answers to reach the disk: the supervisor waits for two


class Loop:
    """Runs until `stop`, or until the source is done and the API is off."""

    def __init__(
        self, config: Config, models: Models, feed: Feed | None, chores: Chores, counts: Counts, log: Log,
        progress: Callable[[], None], observer: Observer | None = None, in_flight: InFlight | None = None,
        following: Following | None = None, view: LiveView | None = None,
    ) -> None:  # fmt: skip
        """`observer`: of answers; `in_flight`: visible to the supervisor when this process dies; `following`: of boxes, where
        tracking is on; `view`: of the page on the device.
        """
        self.config, self.models, self.feed, self.chores = config, models, feed, chores
        self.counts, self.log, self.progress = counts, log, progress
        first = models.manifests[models.first]
        self.output = Outputs(config, first, models.state, counts, log)
        self.following, self.view = following, view
        chains = None
        if config.chain:
            from edgeloop_agent.chains import Chains

            chains = Chains(config.chain, models.first, models.get)
        self.answering = Answering(
            first, lambda: models.get(models.first), counts, observer, following=following, chains=chains
        )  # fmt: skip
        self.in_flight = in_flight or InFlight()
        self.settling = Settling(self.output.sync, self._settle, lambda error: log("error", "settling failed", why=repr(error)))
        self.wait_for_room = self.go_on if feed is not None and waits_when_full(config.source) else None
        self._stop, self._deadline = Event(), float("inf")

    def run(self, stop: Event) -> None:
        self._stop = stop
        self.models.between.begin()
        self.chores.start()
        try:
            while not stop.is_set() and not self.worn_out:
                self.step(IDLE_SECONDS)
                if self.feed is not None and self.feed.done and not self.config.api.enabled:
                    return
            self.drain()
        finally:
            self.models.between.end()
            if self.chores.failure is not None:
                raise self.chores.failure

    @property
    def worn_out(self) -> bool:
        """Whether the worker should end: it is over the memory limit, its runtime only fails, or its chores have a fault."""
        return self.chores.memory_full or self.answering.failures >= MAX_FAILURES or self.chores.failure is not None

    def go_on(self) -> bool:
        """Whether the loop may still wait, for a disk that is full of answers or for the end of the source."""
        self.progress()
        now = time.monotonic()
        if self._stop.is_set() and self._deadline == float("inf"):
            self._deadline = now + self.config.limits.drain_seconds
        return now < self._deadline and not self.worn_out

    def drain(self) -> None:
        """Answer the recordings in the queue, for at most `drain_seconds`."""
        self._deadline = min(self._deadline, time.monotonic() + self.config.limits.drain_seconds)
        self.chores.stop()
        if self.feed is None:
            return
        self.feed.stop()
        while not self.feed.done and time.monotonic() < self._deadline:
            self.step(0.05)

    def close(self) -> None:
        """Write the last answers, and settle their recordings: until the end of `drain_seconds`, where the agent is to end."""
        self.chores.stop()
        self.output.stop()  # first: what others wait for takes no time of it
        self.output.flush(self.go_on)
        deadline = max(time.monotonic() + CLOSE_SECONDS, min(self._deadline, time.monotonic() + self.config.limits.drain_seconds))
        self.settling.close(lambda: time.monotonic() < deadline)
        self.output.close(deadline)

    def step(self, timeout_seconds: float) -> None:
        """Make the changes that wait, answer one recording, if one comes in time, and report progress."""
        self.models.between.make()
        self._follow_model()
        if self.following is not None:
            self.following.keep()
        if self.feed is None:
            time.sleep(timeout_seconds)
        elif (recording := self.feed.take(timeout_seconds)) is not None:
            with self.in_flight.answering(recording.key, self.progress):
                self._answer(recording)
            if self.counts.thermal != "cool":
                time.sleep(self.config.thermal.pause_seconds)
        self.progress()

    def _answer(self, recording: Recording) -> None:
        """Answer it; its lines are written as they come."""
        outcome: Outcome = "answered"
        ticket = self.output.ticket(lambda written: self._written(kept, outcome, written))
        some: list[AnswerLine] = []
        failures = self.answering.failures
        captured = recording.captured if recording.is_read else None
        kept = msgspec.structs.replace(
            recording, values=None, times=None, inputs=None, text=None, by_name=None, by_input=None, captured=captured
        )  # fmt: skip
        for line in self.answering.lines(recording):
            outcome = outcome if line.refused is None else "refused"
            some.append(line)
            if len(some) == LINES_AT_ONCE:
                self._write(some, recording, ticket, last=False)
                some = []
            self.progress()  # the windows of one recording may take minutes
        if self.answering.failures > failures:
            self.in_flight.failed(recording.key)
            outcome = "failed"
        elif recording.is_read:
            self.in_flight.answered()
        if recording.acknowledge is not acknowledge_nothing:
            self.settling.begin(self.go_on)
        self._write(some, recording, ticket, last=True)
        if self.view is not None:
            self.view.see(recording, some)

    def _write(self, lines: list[AnswerLine], recording: Recording, ticket: Ticket, last: bool) -> None:
        self.output.write(lines, recording, ticket, last, self.wait_for_room)

    def _written(self, recording: Recording, outcome: Outcome, written: bool) -> None:
        """All outputs in files have its lines, or have lost some of them. Called by their threads."""
        if recording.captured is not None:
            seconds = time.monotonic() - recording.captured
            self.counts.last_capture_to_answer = seconds
            self.counts.capture_to_answer.add(seconds)
        if outcome == "answered" and not written:
            outcome = "unwritten"
        if recording.acknowledge is acknowledge_nothing:
            self._settle(recording, outcome)
        else:
            self.settling.ready(recording, outcome)

    def _settle(self, recording: Recording, outcome: Outcome) -> None:
        if self.feed is not None:
            self.feed.settle(recording, outcome)

    def _follow_model(self) -> None:
        """Answer by the first bundle that is there now."""
        was, now = self.answering, self.models.manifests[self.models.first]
        if now is was.manifest:
            return
        if self.following is not None:
            self.following.use(now)
        self.output.use(now)
        self.answering = Answering(now, was.engine, self.counts, was.observer, following=self.following, chains=was.chains)
