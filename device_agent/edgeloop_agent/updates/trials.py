"""The switch to a staged bundle and its trial, in the running worker: each bundle of the config has its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from edgeloop_agent.config import Updates
from edgeloop_agent.updates.journal import Running, UpdateFolder
from edgeloop_agent.updates.policy import trial_verdict
from edgeloop_agent.updates.slots import committed, rolled_back, try_change
from edgeloop_contract.errors import BundleTooNew, EdgeloopError
from edgeloop_contract.manifest import Manifest

if TYPE_CHECKING:
    from edgeloop_agent.logs import Log
    from edgeloop_agent.models import Models


@dataclass
class BundleTrial:
    """`original`: the config's own bundle. `counts`: how many samples were answered, and how many were not, so far."""

    name: str
    original: str
    folder: UpdateFolder
    models: Models
    log: Log
    settings: Updates
    counts: Callable[[], tuple[int, int]]

    def __post_init__(self) -> None:
        self.seen_journal = -1.0
        self.began: float | None = None
        self.baseline = (0, 0)
        self.digest: tuple[Path, str] = (Path(), "")
        if self.folder.load().trial is not None:
            self._start()

    def running(self) -> tuple[Running, str]:
        """What runs, and its target's name; "" for the config's own bundle."""
        running = Running(self.name, self.models.manifests[self.name].version, self._sha256())
        slot = self.folder.load().running
        return running, slot.target if slot is not None and slot.sha256 == running.sha256 else ""

    def _sha256(self) -> str:
        """Of the file that is served; a model need not be loaded for that."""
        from edgeloop_contract.archive import Bundle

        path = self.models.paths[self.name]
        if self.digest[0] != path:
            with Bundle.open(path, verified=self.models.verified) as bundle:
                self.digest = path, bundle.sha256
        return self.digest[1]

    def tick(self) -> bool:
        """Do what is due; whether another bundle runs now."""
        return self._switch() or self._judge()

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
        if journal.trial is None or slot is None or slot.sha256 == self._sha256():
            return False
        if try_change(self.log, self.folder, lambda j: j.booted() if j.trial else j) is None:
            return False
        try:
            self.models.replace(self.name, self.folder.slot(journal.trial.slot), slot.sha256, self._fits)
        except BundleTooNew as error:  # the updater is newer than this process
            self.log("error", "update waits for a restart of the agent", target=slot.target, why=error)
            return False
        except EdgeloopError as error:
            self._roll_back(f"it cannot be loaded: {error}", loaded=False)
            return False
        self.log("info", "update on trial", target=slot.target, seconds=self.settings.health_seconds)
        self._start()
        return True

    def _fits(self, manifests: Mapping[str, Manifest]) -> None:
        """Raises UsageError where the config's chains or lines cannot work with these models."""
        config = self.models.config
        if config.chain:
            from edgeloop_agent.chains import check_chains

            check_chains(config.chain, manifests, self.models.first)
        if config.tracking.enabled:
            from edgeloop_agent.tracking.following import check_model

            check_model(config.tracking, manifests[self.models.first])

    def _start(self) -> None:
        self.began = time.monotonic()
        self.baseline = self.counts()

    def _judge(self) -> bool:
        if self.began is None:
            return False
        answered, refused = (now - before for now, before in zip(self.counts(), self.baseline, strict=True))
        verdict = trial_verdict(self.began, time.monotonic(), self.settings.health_seconds, answered, refused)
        if verdict is None:
            return False
        if verdict:
            return self._roll_back(verdict, loaded=True)
        done = try_change(self.log, self.folder, committed)
        if done is not None:
            self.began = None
            self.log("info", "update committed", target=done.running.target if done.running else "")
        return False

    def _roll_back(self, why: str, loaded: bool) -> bool:
        self.began = None
        journal = self.folder.load()
        slot = journal.running
        self.log("error", "update rolled back", target=slot.target if slot else "", why=why)
        after = try_change(self.log, self.folder, lambda j: rolled_back(j, why)) or replace(journal, trial=None)
        if not loaded:
            return False
        old = after.slot(after.active)
        path = self.folder.slot(after.active) if after.active and old else Path(self.original)
        try:
            self.models.replace(self.name, path, old.sha256 if old else "")
        except EdgeloopError as error:
            self.log("error", "the previous bundle cannot be loaded", why=error)
            return False
        return True
