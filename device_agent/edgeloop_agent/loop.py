"""The inference loop: a recording is cleaned, prepared, answered and written, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent import thermal
from edgeloop_agent.answering import Answering, AnswerLine, Observer
from edgeloop_agent.config import Config
from edgeloop_agent.feed import Feed
from edgeloop_agent.in_flight import InFlight
from edgeloop_agent.logs import Log, Recurring
from edgeloop_agent.metrics import Counts, resident_bytes
from edgeloop_agent.models import Models
from edgeloop_agent.outputs.fan_out import Outputs
from edgeloop_agent.sensors import Reading, Sensor
from edgeloop_agent.sources import Outcome, Recording, acknowledge_nothing
from edgeloop_contract.errors import EdgeloopError

if TYPE_CHECKING:
    from edgeloop_agent.engine_builds import EngineBuilds
    from edgeloop_agent.page.live_view import LiveView
    from edgeloop_agent.tracking.following import Following
    from edgeloop_agent.updates.switcher import UpdateWatcher

IDLE_SECONDS = 0.5
WATCH_SECONDS = 0.5
MAX_FAILURES = 5
LINES_AT_ONCE = 32
MAX_UNSETTLED, SETTLE_SECONDS = 64, 1.0  # recordings whose answers reach the disk together: flash wears by syncs


class Loop:
    """Runs until `stop`, or until the source is done and the API is off."""

    def __init__(
        self, config: Config, models: Models, feed: Feed | None, sensor: Sensor, counts: Counts, log: Log,
        progress: Callable[[], None], watch: UpdateWatcher | None = None, observer: Observer | None = None,
        in_flight: InFlight | None = None, following: Following | None = None,
        view: LiveView | None = None,
    ) -> None:  # fmt: skip
        """`watch`: over updates, where there are any; `observer`: of answers; `in_flight`: visible to the supervisor when
        this process dies; `following`: of boxes, where tracking is on; `view`: of the page on the device.
        """
        self.config, self.models, self.feed, self.sensor = config, models, feed, sensor
        self.counts, self.log, self.progress, self.watch = counts, log, progress, watch
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
        self.next_look = self.next_watch = 0.0
        self.watching = Recurring(log, "updates cannot go on", "updates go on")
        self.memory_full = self.memory_unknown = False
        self.in_flight = in_flight or InFlight()
        self.unsettled: list[tuple[Recording, Outcome]] = []
        self.next_settle = 0.0
        self.builds: EngineBuilds | None = None  # of providers that need some

    def run(self, stop: Event) -> None:
        while not stop.is_set() and not self.worn_out:
            self.look_around()
            self.step(IDLE_SECONDS)
            if self.feed is not None and self.feed.done and not self.config.api.enabled:
                self.settle()
                return
        self.drain()

    @property
    def worn_out(self) -> bool:
        """Whether the worker should restart: it is over the memory limit, or its runtime only fails."""
        return self.memory_full or self.answering.failures >= MAX_FAILURES

    def drain(self) -> None:
        """Answer the recordings in the queue, for at most `drain_seconds`."""
        if self.watch is not None:
            self.watch.stop()
        if self.builds is not None:
            self.builds.stop()
        if self.feed is None:
            return
        self.feed.stop()
        deadline = time.monotonic() + self.config.limits.drain_seconds
        while not self.feed.done and time.monotonic() < deadline:
            self.step(0.05)
        self.settle()

    def step(self, timeout_seconds: float) -> None:
        """Answer one recording, if one comes in time, and report progress."""
        recording = None
        if self.feed is None:
            time.sleep(timeout_seconds)
        elif (recording := self.feed.take(timeout_seconds)) is not None:
            with self.in_flight.answering(recording.key, self.progress):
                outcome = self._answer(recording)
                if recording.acknowledge is acknowledge_nothing:
                    self.feed.settle(recording, outcome)
                else:
                    self.unsettled.append(
                        (msgspec.structs.replace(recording, values=None, times=None, inputs=None, text=None), outcome)
                    )
            if self.counts.thermal != "cool":
                time.sleep(self.config.thermal.pause_seconds)
        if recording is None or len(self.unsettled) >= MAX_UNSETTLED or time.monotonic() >= self.next_settle:
            self.settle()
        self.progress()

    def _answer(self, recording: Recording) -> Outcome:
        """Write the lines of one recording as they come; returns the outcome of the whole."""
        refused, written = False, True
        some: list[AnswerLine] = []
        failures = self.answering.failures
        for line in self.answering.lines(recording):
            refused = refused or line.refused is not None
            some.append(line)
            if len(some) == LINES_AT_ONCE:
                written = self.output.write(some, recording) and written
                some = []
            self.progress()  # the windows of one recording may take minutes
        written = self.output.write(some, recording) and written
        if recording.captured is not None and recording.is_read:
            seconds = time.monotonic() - recording.captured
            self.counts.last_capture_to_answer = seconds
            self.counts.capture_to_answer.add(seconds)
        if self.view is not None:
            self.view.see(recording, some)
        if self.answering.failures > failures:
            self.in_flight.failed(recording.key)
            return "failed"
        if recording.is_read:
            self.in_flight.answered()
        return "refused" if refused else "answered" if written else "unwritten"

    def settle(self) -> None:
        """Report the outcomes of the last recordings to the source. It may delete files then, so their answers are synced first."""
        self.next_settle = time.monotonic() + SETTLE_SECONDS
        if not self.unsettled or self.feed is None:
            return
        safe = not any(outcome == "answered" for _, outcome in self.unsettled) or self.output.sync()
        for recording, outcome in self.unsettled:
            self.feed.settle(recording, outcome if safe or outcome != "answered" else "unwritten")
        self.unsettled = []

    def look_around(self) -> None:
        """Check updates, keep what was counted, and every `poll_seconds` look at heat and memory."""
        if self.following is not None:
            self.following.keep()
        if self.builds is not None:
            self.builds.tick()
        if self.watch is not None and time.monotonic() >= self.next_watch:
            self.next_watch = time.monotonic() + WATCH_SECONDS
            if self._updated(self.watch):
                was, now = self.answering, self.models.manifests[self.models.first]
                if self.following is not None:
                    self.following.use(now)
                self.output.use(now)
                self.answering = Answering(now, was.engine, self.counts, was.observer, following=self.following, chains=was.chains)
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + self.config.thermal.poll_seconds
        self._heat()
        self._memory()

    def _updated(self, watch: UpdateWatcher) -> bool:
        """Let updates go on; whether another first bundle runs now. What they lack, such as files to open, stops no inference."""
        try:
            changed = watch.tick()
        except OSError as error:
            self.watching.fails(error)
            return False
        self.watching.works()
        return changed

    def _heat(self) -> None:
        policy, reading = self.config.thermal, self.sensor.read()
        self.counts.reading = reading
        state = thermal.decide(policy, reading, self.counts.thermal)  # type: ignore[arg-type]
        if state == self.counts.thermal:
            return
        self.log("warning" if state != "cool" else "info", "thermal state", state=state, celsius=reading.celsius)
        self.counts.thermal = state
        if policy.hot_variant:
            wanted = policy.hot_variant if state == "hot" else self.config.runtime.variant
            try:
                self.models.use_variant(wanted)
                self.models.get(self.models.first)
            except EdgeloopError as error:
                self.log("error", "hot_variant cannot be used", variant=wanted, why=error)
                self.models.use_variant(self.config.runtime.variant)

    def _memory(self) -> None:
        ceiling, resident = self.config.limits.memory_bytes, resident_bytes()
        if not resident and not self.memory_unknown:
            self.memory_unknown = True
            self.log("warning", "memory_bytes is not watched: this system does not say how much memory a process has")
        if resident <= ceiling:
            return
        self.models.results.clear()
        self.models.pool.keep_only(self.models.first)
        if resident_bytes() > ceiling:
            self.log("error", "over memory_bytes: the worker restarts", resident=resident_bytes(), ceiling=ceiling)
            self.memory_full = True


def describe(reading: Reading) -> dict[str, str]:
    """A reading in words, for `check`."""
    return {k: "not measurable here" if v is None else str(v) for k, v in msgspec.structs.asdict(reading).items()}
