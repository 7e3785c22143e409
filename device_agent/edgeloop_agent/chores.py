"""What is not answering: updates, engines, heat, memory. By a thread of its own, as each of them may wait for a disk.

What they change is changed by the inference loop, between two recordings.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from edgeloop_agent import thermal
from edgeloop_agent.config import Config
from edgeloop_agent.logs import Log, Recurring
from edgeloop_agent.metrics import Counts, resident_bytes
from edgeloop_agent.models import Models
from edgeloop_agent.sensors import Sensor
from edgeloop_contract.errors import EdgeloopError

if TYPE_CHECKING:
    from edgeloop_agent.engine_builds import EngineBuilds
    from edgeloop_agent.updates.switcher import UpdateWatcher

__all__ = ["Chores"]

TICK_SECONDS = 0.5
STOP_SECONDS = 1.0


class Chores:
    """`watch`: over updates, where there are any; `builds`: of engines, where there are any."""

    def __init__(
        self, config: Config, models: Models, sensor: Sensor, counts: Counts, log: Log,
        watch: UpdateWatcher | None = None, builds: EngineBuilds | None = None,
    ) -> None:  # fmt: skip
        self.config, self.models, self.sensor, self.counts, self.log = config, models, sensor, counts, log
        self.watch, self.builds = watch, builds
        self.memory_full = self._memory_unknown = False
        self.failure: Exception | None = None  # a fault of our own: the worker ends
        self._watching = Recurring(log, "updates cannot go on", "updates go on")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chores", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and end the processes that were begun. A disk that hangs is not waited for."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        for running in (self.watch, self.builds):
            if running is not None:
                running.stop()

    def _run(self) -> None:
        between_looks = self.config.thermal.poll_seconds
        since = between_looks
        try:
            while not self._stop.is_set():
                self.tick()
                if since >= between_looks:
                    self.look()
                    since = 0.0
                pause = min(TICK_SECONDS, between_looks)
                since += pause
                self._stop.wait(pause)
        except Exception as error:
            self.failure = error

    def tick(self) -> None:
        """Let updates and engines go on. What they lack, such as files to open, stops nothing else."""
        try:
            if self.builds is not None:
                self.builds.tick()
            if self.watch is not None:
                self.watch.tick()
            self._watching.works()
        except OSError as error:
            self._watching.fails(error)

    def look(self) -> None:
        """At heat and memory."""
        self._heat()
        self._memory()

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
            except EdgeloopError as error:
                self.log("error", "hot_variant cannot be used", variant=wanted, why=error)

    def _memory(self) -> None:
        ceiling, resident = self.config.limits.memory_bytes, resident_bytes()
        if not resident and not self._memory_unknown:
            self._memory_unknown = True
            self.log("warning", "memory_bytes is not watched: this system does not say how much memory a process has")
        if resident <= ceiling:
            return
        self.models.results.clear()
        self.models.pool.keep_only(self.models.first)
        if resident_bytes() > ceiling:
            self.log("error", "over memory_bytes: the worker restarts", resident=resident_bytes(), ceiling=ceiling)
            self.memory_full = True
