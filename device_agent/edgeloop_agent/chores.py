"""What is not answering: updates, engines, heat, memory. By threads of its own, as each of them may wait for a disk.

Heat and memory have one for themselves: while another model loads, they are looked at too.

What they change is changed by the inference loop, between two recordings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeloop_agent import thermal
from edgeloop_agent.config import Config
from edgeloop_agent.logs import Log, Recurring
from edgeloop_agent.metrics import Counts, resident_bytes
from edgeloop_agent.models import Models
from edgeloop_agent.sensors import Sensor
from edgeloop_contract.errors import DeviceError, EdgeloopError

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
        self._fault: Exception | None = None
        self._wanted = self._tried = config.runtime.variant  # by heat
        self._watching = Recurring(log, "updates cannot go on", "updates go on")
        self._stop = threading.Event()
        looks = config.thermal.poll_seconds
        self._threads = [
            threading.Thread(target=self._run, args=(self.tick, min(TICK_SECONDS, looks)), name="chores", daemon=True),
            threading.Thread(target=self._run, args=(self.look, looks), name="looks", daemon=True),
        ]

    @property
    def failure(self) -> Exception | None:
        """Why the worker is to end: a fault of our own, or a load of a model that takes longer than a whole start may."""
        began, seconds = self.models.change_began, self.config.limits.start_seconds
        if self._fault is None and began is not None and time.monotonic() - began > seconds:
            self._fault = DeviceError(f"another model did not load within start_seconds ({seconds:g}): updates would wait for ever")
        return self._fault

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing more, and end the processes that were begun. A disk that hangs is not waited for."""
        self._stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        for running in (self.watch, self.builds):
            if running is not None:
                running.stop()

    def _run(self, do: Callable[[], object], pause_seconds: float) -> None:
        try:
            while not self._stop.is_set():
                do()
                self._stop.wait(pause_seconds)
        except Exception as error:
            self._fault = error

    def tick(self) -> None:
        """Let updates and engines go on. What they lack, such as files to open, stops nothing else."""
        self._follow_heat()
        try:
            if self.builds is not None:
                self.builds.tick()
            if self.watch is not None and not self._stop.is_set():
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
            self._wanted = policy.hot_variant if state == "hot" else self.config.runtime.variant

    def _follow_heat(self) -> None:
        """Load the variant that heat wants: with the other changes of models, one after the other."""
        wanted = self._wanted
        if wanted == self._tried:
            return
        self._tried = wanted
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
