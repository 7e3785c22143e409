"""The worker's side of updates: when to run a cycle, and the trials of what it staged.

Each update cycle is a process of its own; worker and updater share only the journal.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from edgeloop_agent.config import ROLLED_OUT, Config
from edgeloop_agent.updates.agent_slots import folder_of_agent, running_agent
from edgeloop_agent.updates.agent_trial import agent_trial
from edgeloop_agent.updates.config_slots import folder_of, running_config
from edgeloop_agent.updates.config_trial import config_trial
from edgeloop_agent.updates.cycle_messages import CycleRequest, CycleResult
from edgeloop_agent.updates.journal import UpdateFolder, update_folder
from edgeloop_agent.updates.trials import BundleTrial
from edgeloop_contract.messages import MAX_LOG_LINE, MAX_LOG_LINES, MAX_OTHER_BUNDLES
from edgeloop_contract.signed_jobs import MAX_LINES

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.models import Models
    from edgeloop_agent.observers import SampleObserver
    from edgeloop_agent.updates.journal import Running
    from edgeloop_contract.messages import DriftReport, Heartbeat

MAX_CYCLE_SECONDS = 6 * 3600.0
STOP_SECONDS = 5.0
LONGEST_WAIT = 8  # times poll_seconds, while the other side is away
SPREAD = 0.2  # of the time between polls, so that a fleet does not ask in step


class UpdateWatcher:
    """Runs update cycles and trials by `tick`, which may wait for a disk."""

    def __init__(
        self, config: Config, config_path: Path, models: Models, counts: Counts, log: Log, observer: SampleObserver | None = None
    ) -> None:
        self.config, self.config_path, self.models, self.counts, self.log = config, config_path, models, counts, log
        self.observer = observer
        self.folder = UpdateFolder(update_folder(config))
        self.settings = config.updates
        self.failures = 0
        self.next_cycle = time.monotonic() + random.random() * min(self.settings.poll_seconds, 30)
        self.updater: subprocess.Popen[bytes] | None = None
        self.updater_started = 0.0
        self._stopped = Event()
        self.last_result, self.last_line = "", ""
        self.trials = self._trials(config)
        self.config_file = Path(os.environ.get(ROLLED_OUT) or config_path)
        self.config_trial = (
            config_trial(self.config_file, folder_of(config), counts, log, self.settings) if self.settings.config else None
        )
        self.agent_trial = agent_trial(folder_of_agent(config), counts, log, self.settings) if self.settings.agent else None

    def _trials(self, config: Config) -> list[BundleTrial]:
        """One for each bundle that is served, the first one first."""
        first, *others = self.models.paths
        made = [BundleTrial(first, config.bundles[0], self.folder, self.models, self.log, self.settings, self._first_counts)]
        for name in others:
            place = self.models.config.bundles.index(str(self.models.paths[name]))
            calls, path = self.counts.calls_of(name), config.bundles[place]
            counts = lambda calls=calls: (calls.answered, calls.failed)  # noqa: E731
            made.append(BundleTrial(name, path, self.folder.of_model(name), self.models, self.log, self.settings, counts))
        return made

    def _first_counts(self) -> tuple[int, int]:
        return self.counts.answered, sum(self.counts.refused.values())

    def tick(self) -> bool:
        """Do what is due; whether another first bundle runs now."""
        self._poll_updater()
        if self.config_trial is not None:
            self.config_trial.tick()
        if self.agent_trial is not None:
            self.agent_trial.tick()
        switched = [trial.tick() for trial in self.trials]
        return switched[0]

    def stop(self) -> None:
        """End the updater, and start none any more; called again, it does nothing. `tick` may run in another thread meanwhile."""
        self._stopped.set()
        updater, self.updater = self.updater, None
        if updater is not None:
            updater.terminate()
            try:
                updater.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # it waits for a slow disk: what it does may be cut off at any point
                updater.kill()

    def _poll_updater(self) -> None:
        now, updater = time.monotonic(), self.updater
        if self._stopped.is_set():
            return
        if updater is None:
            if now >= self.next_cycle:
                self._start_updater(now)
            return
        if updater.poll() is None:
            if now - self.updater_started > MAX_CYCLE_SECONDS:
                updater.kill()
            return
        self.updater = None
        result = _result_of(updater)
        self.failures = self.failures + 1 if result.level else 0
        wait = self.settings.poll_seconds * min(2 ** max(self.failures - 1, 0), LONGEST_WAIT)
        self.next_cycle = now + wait * random.uniform(1 - SPREAD, 1 + SPREAD)
        if result.restart:
            self.log("warning", "agent restarts", why="a signed job asks for it")
            os.kill(os.getppid(), signal.SIGHUP)  # the supervisor starts a new worker when this one has finished its recordings
        if result.text != self.last_result:
            self.last_result = result.text
            self.log("warning" if result.level else "info", "updates", result=result.text)

    def _new_warnings(self) -> list[str]:
        """Lines of the log that the hub was not sent yet, the newest ones."""
        lines = self.log.warnings_after(self.last_line)[-MAX_LOG_LINES:]
        self.last_line = lines[-1] if lines else self.last_line
        return lines

    def _reports(
        self, first: tuple[Running, str], others: list[tuple[Running, str]]
    ) -> tuple[Heartbeat, list[Heartbeat], DriftReport | None]:
        """What was counted since the last time: of the first bundle, of the others, and drift. Between two recordings."""
        running, target = first
        description = self.models.get(self.models.first).runtime.description
        heartbeat, drift = self.counts.heartbeat(running.model, running.version, running.sha256, target, description), None
        if self.observer is not None and self.config.samples.send != "nothing":
            drift = self.observer.report()
            heartbeat = replace(heartbeat, drift=drift.score if drift is not None else None)
        started, restarts = self.counts.started, self.counts.restarts
        beats = [
            self.counts.calls_of(r.model).heartbeat(r.model, r.version, r.sha256, named, started, restarts)
            for r, named in others[:MAX_OTHER_BUNDLES]
        ]
        return heartbeat, beats, drift

    def _start_updater(self, now: float) -> None:
        first, *others = [trial.running() for trial in self.trials]
        heartbeat, beats, drift = self.models.between(lambda: self._reports(first, others))
        celsius = self.counts.reading.celsius if self.counts.reading else None
        if self.settings.config:
            # As the first bundle answers under it: so a rollout of a config has the same gates.
            follows, named = running_config(self.config, self.config_file)
            others.append((follows, named))
            same = replace(heartbeat, model=follows.model, version=follows.version, sha256=follows.sha256, target=named)
            beats = [same, *beats][:MAX_OTHER_BUNDLES]
        if self.settings.agent:
            mine, named = running_agent(self.config)
            others.append((mine, named))
            same = replace(heartbeat, model=mine.model, version=mine.version, sha256=mine.sha256, target=named)
            beats = [same, *beats][:MAX_OTHER_BUNDLES]
        lines = [line[:MAX_LOG_LINE] for line in self._new_warnings()]
        recent = list(self.log.recent)[-MAX_LINES:]
        request = CycleRequest(
            first[0], [r for r, _ in others], heartbeat, beats, drift, self.counts.queue == 0, celsius, lines, recent
        )
        words = [sys.executable, "-m", "edgeloop_agent.updates", str(self.config_path)]
        try:
            if self._stopped.is_set():
                return
            self.updater = updater = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.updater_started = now
            if self._stopped.is_set():  # while it was started
                self.stop()
            assert updater.stdin is not None
            with updater.stdin:
                updater.stdin.write(msgspec.json.encode(request))
        except OSError as error:
            self.log("warning", "updates", result=f"the updater cannot be started: {error}")
            self.next_cycle = now + self.settings.poll_seconds


def _result_of(updater: subprocess.Popen[bytes]) -> CycleResult:
    assert updater.stdout is not None
    with updater.stdout:
        try:
            return msgspec.json.decode(updater.stdout.read(), type=CycleResult)
        except msgspec.MsgspecError:
            return CycleResult("warning", f"the updater's process died (exit code {updater.returncode})")
