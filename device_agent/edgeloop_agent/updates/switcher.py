"""The worker's side of updates: what to load at the start, when to run a cycle, when to switch, and whether a trial is passed.

Each update cycle is a process of its own; worker and updater share only the journal.
"""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from edgeloop_agent.config import Config
from edgeloop_agent.updates.cycle_messages import CycleRequest, CycleResult
from edgeloop_agent.updates.journal import BOOTS_IN_TRIAL, Journal, Running, SlotName, UpdateFolder, update_folder
from edgeloop_contract.errors import BundleError, BundleTooNew, EdgeloopError, StorageError
from edgeloop_contract.messages import MAX_LOG_LINE, MAX_LOG_LINES, Event

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.models import Models
    from edgeloop_agent.observers import SampleObserver

MAX_CYCLE_SECONDS = 6 * 3600.0
LONGEST_WAIT = 8  # times poll_seconds, while the other side is away
SPREAD = 0.2  # of the time between polls, so that a fleet does not ask in step


def event(kind: str, target: str, text: str) -> Event:
    return Event(key=secrets.token_hex(16), kind=kind, at=time.time(), target=target, text=text[:2000])


def with_slot(config: Config, log: Log) -> Config:
    """The config with its first bundle replaced by the newest intact slot; without one, the config's own bundle runs."""
    folder = UpdateFolder(update_folder(config))
    for name in _candidates(folder, log):
        path = folder.slot(name)
        slot = folder.load().slot(name)
        try:
            if slot is not None and _is_whole(path, slot.sha256):
                return replace(config, bundles=[str(path), *config.bundles[1:]])
        except BundleTooNew as error:  # the agent was downgraded: the bundle itself is fine
            log("error", "slot needs a later edgeloop: update the agent", slot=name, why=error)
            continue
        if slot is not None:
            log("error", "slot damaged", slot=name, target=slot.target)
            _try(log, folder, lambda j, name=name: j.without(name).noted(event("damaged", "", f"slot {name}")))  # type: ignore[misc]
    return config


def _candidates(folder: UpdateFolder, log: Log) -> list[SlotName]:
    """Slots in the order in which to try them. Counts a start of the bundle on trial, before it is loaded."""
    journal = folder.load()
    if (trial := journal.trial) is not None:
        slot = journal.slot(trial.slot)
        if trial.boots >= BOOTS_IN_TRIAL:
            why = f"started {trial.boots} times without passing its trial"
            log("error", "update rolled back", target=slot.target if slot else "", why=why)
            given = _try(log, folder, lambda j: _rolled_back(j, why))
            journal = given or replace(journal, trial=None)
        else:
            journal = _try(log, folder, lambda j: j.booted() if j.trial else j) or replace(journal, trial=None)
    order = [journal.trial.slot if journal.trial else None, journal.active, journal.free if journal.active else None]
    slots = {name: journal.slot(name) for name in order if name is not None}
    return [name for name, slot in slots.items() if slot is not None and not journal.rejected(slot.sha256)]


def _rolled_back(journal: Journal, why: str) -> Journal:
    if journal.trial is None:
        return journal
    slot = journal.slot(journal.trial.slot)
    return journal.rolled_back(why).noted(event("rolled-back", slot.target if slot else "", why))


def _is_whole(path: Path, sha256: str) -> bool:
    """Raises BundleTooNew."""
    from edgeloop_contract.archive import Bundle

    try:
        with Bundle.open(path) as bundle:
            return bundle.sha256 == sha256
    except BundleTooNew:
        raise
    except BundleError:
        return False


def _try(log: Log, folder: UpdateFolder, rule: Callable[[Journal], Journal]) -> Journal | None:
    try:
        return folder.change(rule)
    except StorageError as error:
        log("error", "journal", why=error)
        return None


class UpdateWatcher:
    """Runs update cycles and trials; the loop calls `tick`."""

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
        self.last_result, self.last_line = "", ""
        self.seen_journal = -1.0
        self.trial_began: float | None = None
        self.baseline = (0, 0)
        if self.folder.load().trial is not None:
            self._start_trial()

    def tick(self) -> bool:
        """Do what is due; whether another bundle runs now."""
        self._poll_updater()
        return self._switch() or self._trial()

    def stop(self) -> None:
        if self.updater is not None:
            self.updater.terminate()
            self.updater.wait(5)

    def _poll_updater(self) -> None:
        now = time.monotonic()
        if self.updater is None:
            if now >= self.next_cycle:
                self._start_updater(now)
            return
        if self.updater.poll() is None:
            if now - self.updater_started > MAX_CYCLE_SECONDS:
                self.updater.kill()
            return
        result, self.updater = _result_of(self.updater), None
        self.failures = self.failures + 1 if result.level else 0
        wait = self.settings.poll_seconds * min(2 ** max(self.failures - 1, 0), LONGEST_WAIT)
        self.next_cycle = now + wait * random.uniform(1 - SPREAD, 1 + SPREAD)
        if result.text != self.last_result:
            self.last_result = result.text
            self.log("warning" if result.level else "info", "updates", result=result.text)

    def _new_warnings(self) -> list[str]:
        """Lines of the log that the hub was not sent yet, the newest ones."""
        lines = self.log.warnings_after(self.last_line)[-MAX_LOG_LINES:]
        self.last_line = lines[-1] if lines else self.last_line
        return lines

    def _start_updater(self, now: float) -> None:
        model = self.models.get(self.models.first)
        running = Running(model.name, model.manifest.version, model.sha256)
        slot = self.folder.load().running
        target = slot.target if slot is not None and slot.sha256 == running.sha256 else ""
        heartbeat = self.counts.heartbeat(running.model, running.version, running.sha256, target, model.runtime.description)
        drift = None
        if self.observer is not None and self.config.samples.send != "nothing":
            drift = self.observer.report()
            heartbeat = replace(heartbeat, drift=drift.score if drift is not None else None)
        celsius = self.counts.reading.celsius if self.counts.reading else None
        lines = [line[:MAX_LOG_LINE] for line in self._new_warnings()]
        request = CycleRequest(running, heartbeat, drift, self.counts.queue == 0, celsius, lines)
        words = [sys.executable, "-m", "edgeloop_agent.updates", str(self.config_path)]
        try:
            self.updater = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.updater_started = now
            assert self.updater.stdin is not None
            self.updater.stdin.write(msgspec.json.encode(request))
            self.updater.stdin.close()
        except OSError as error:
            self.log("warning", "updates", result=f"the updater cannot be started: {error}")
            self.next_cycle = now + self.settings.poll_seconds

    def _switch(self) -> bool:
        try:
            changed = (self.folder.path / "journal.json").stat().st_mtime_ns
        except OSError:
            return False
        if changed == self.seen_journal:
            return False
        self.seen_journal = changed
        journal = self.folder.load()
        slot = journal.running
        if journal.trial is None or slot is None or slot.sha256 == self.models.get(self.models.first).sha256:
            return False
        if _try(self.log, self.folder, lambda j: j.booted() if j.trial else j) is None:
            return False
        try:
            self.models.replace_first(self.folder.slot(journal.trial.slot), slot.sha256)
        except BundleTooNew as error:  # the updater is newer than this process
            self.log("error", "update waits for a restart of the agent", target=slot.target, why=error)
            return False
        except EdgeloopError as error:
            self._roll_back(f"it cannot be loaded: {error}", loaded=False)
            return False
        self.log("info", "update on trial", target=slot.target, seconds=self.settings.health_seconds)
        self._start_trial()
        return True

    def _start_trial(self) -> None:
        self.trial_began = time.monotonic()
        self.baseline = (self.counts.answered, sum(self.counts.refused.values()))

    def _trial(self) -> bool:
        from edgeloop_agent.updates.policy import trial_verdict

        if self.trial_began is None:
            return False
        answered, refused = self.counts.answered - self.baseline[0], sum(self.counts.refused.values()) - self.baseline[1]
        verdict = trial_verdict(self.trial_began, time.monotonic(), self.settings.health_seconds, answered, refused)
        if verdict is None:
            return False
        if verdict:
            return self._roll_back(verdict, loaded=True)
        done = _try(self.log, self.folder, _committed)
        if done is not None:
            self.trial_began = None
            self.log("info", "update committed", target=done.running.target if done.running else "")
        return False

    def _roll_back(self, why: str, loaded: bool) -> bool:
        self.trial_began = None
        journal = self.folder.load()
        slot = journal.running
        self.log("error", "update rolled back", target=slot.target if slot else "", why=why)
        after = _try(self.log, self.folder, lambda j: _rolled_back(j, why)) or replace(journal, trial=None)
        if not loaded:
            return False
        old = after.slot(after.active)
        path = self.folder.slot(after.active) if after.active and old else Path(self.config.bundles[0])
        try:
            self.models.replace_first(path, old.sha256 if old else "")
        except EdgeloopError as error:
            self.log("error", "the previous bundle cannot be loaded", why=error)
            return False
        return True


def _committed(journal: Journal) -> Journal:
    if journal.trial is None:
        return journal
    slot = journal.slot(journal.trial.slot)
    return journal.committed().noted(event("committed", slot.target if slot else "", ""))


def _result_of(updater: subprocess.Popen[bytes]) -> CycleResult:
    assert updater.stdout is not None
    with updater.stdout:
        try:
            return msgspec.json.decode(updater.stdout.read(), type=CycleResult)
        except msgspec.MsgspecError:
            return CycleResult("warning", f"the updater's process died (exit code {updater.returncode})")
