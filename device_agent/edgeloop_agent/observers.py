"""Observes every answer: the drift monitor sees it, and the outbox may keep its sample."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgeloop_agent.config import Config
from edgeloop_agent.engine import Answer
from edgeloop_agent.errand import Errand
from edgeloop_agent.logs import Recurring
from edgeloop_agent.outbox.answers import annotation_of, doubt_of
from edgeloop_agent.sources import Recording
from edgeloop_contract.files import publish, remedy_of
from edgeloop_contract.messages import DriftReport, Event
from edgeloop_contract.tasks import Detection, Multilabel, Regression, Segmentation

if TYPE_CHECKING:
    from edgeloop_agent.drift.monitor import DriftFollower
    from edgeloop_agent.logs import Log
    from edgeloop_agent.metrics import Counts
    from edgeloop_agent.models import Models
    from edgeloop_agent.outbox.writer import OutboxWriter
    from edgeloop_contract.drift import Drift
    from edgeloop_contract.manifest import Manifest


HAS_ANSWER = (Detection, Multilabel, Segmentation, Regression)  # whose answers are more than one label
MAX_NAMES = 1024  # names of recordings
STOP_SECONDS = 3.0  # for the state to reach the disk


class SampleObserver:
    """Observes the first model's answers. After an update it uses the new bundle's drift reference."""

    def __init__(self, config: Config, models: Models, counts: Counts, log: Log) -> None:
        self.config, self.models, self.counts, self.log = config, models, counts, log
        self.outbox_writer: OutboxWriter | None = None
        if config.updates.hub and config.samples.send != "nothing":
            from edgeloop_agent.outbox.writer import OutboxWriter

            self.outbox_writer = OutboxWriter(config.samples, models.state, counts, log)
        self.follower: DriftFollower | None = None
        self._run = os.urandom(3).hex()  # names of recordings repeat after a restart …
        self._seen: dict[str, tuple[int, int]] = {}  # … and during one run: how often each did, and its last window
        self._sha256 = ""
        self._to_save: tuple[Path, bytes] | None = None
        self._saver = Errand("drift", self._write_state)
        self._prepared: dict[str, DriftFollower] = {}
        self._saving = Recurring(log, "drift state cannot be saved", "drift state is saved again")

    def observe(self, recording: Recording, answer: Answer) -> None:
        seen = answer.tensors if answer.scores is None else answer.scores
        if answer.sample is None or seen is None:
            return
        follower = self._current_follower()
        if follower is None:
            return
        observation = follower.observe(answer.sample, seen)
        self.counts.drift = follower.monitor.score
        if observation.changed:
            self._announce(follower)
        if self.outbox_writer is not None:
            name, task = self._name(recording.name, answer.window), follower.manifest.task
            truth = "" if isinstance(task, HAS_ANSWER) else recording.label  # one label says nothing of boxes
            self.outbox_writer.sample(
                name, answer.window, answer.sample, answer.label or "", observation, truth, self.models.first, self._sha256,
                doubt_of(task, answer), partial(annotation_of, task, answer),
            )  # fmt: skip

    def _name(self, name: str, window: int) -> str:
        """A unique name for each recording. A sensor may write latest.csv repeatedly; its window numbers then start again."""
        again, last = self._seen.pop(name, (0, -1))
        again += window <= last
        self._seen[name] = again, window
        if len(self._seen) > MAX_NAMES:
            del self._seen[next(iter(self._seen))]
        return f"{self._run}{f'.{again}' if again else ''} {name}"

    def observe_fault(self, reason: str) -> None:
        follower = self._current_follower()
        if follower is not None:
            follower.observe_fault(reason)

    def report(self) -> DriftReport | None:
        """Drift since the last report; None where the bundle has no reference, or drift is off."""
        follower = self._current_follower()
        if follower is None:
            return None
        self._save_state(follower)
        return follower.report(self.models.first, self._sha256)

    def stop(self) -> None:
        if self.follower is not None:
            self._save_state(self.follower)
            self._saver.wait(STOP_SECONDS)
        if self.outbox_writer is not None:
            self.outbox_writer.stop()

    def prepare(self, manifest: Manifest, sha256: str) -> None:
        """Read what was kept of this bundle's drift, before it answers: its first answer does not wait for the disk."""
        if self.config.drift.enabled and manifest.drift is not None and sha256 != self._sha256:
            self._prepared = {sha256: self._restored(manifest, manifest.drift, sha256)}

    def _current_follower(self) -> DriftFollower | None:
        """The drift follower of the present bundle; None without a reference, or where drift is off."""
        if not self.config.drift.enabled:
            return None
        model = self.models.get(self.models.first)
        if model.sha256 != self._sha256:
            self._sha256 = model.sha256
            reference = model.manifest.drift
            self.follower = None
            if reference is not None:
                prepared = self._prepared.pop(model.sha256, None)
                self.follower = prepared or self._restored(model.manifest, reference, model.sha256)
            if reference is not None and self.outbox_writer is not None and not isinstance(model.manifest.task, Detection):
                self.outbox_writer.use_reliability(reference.reliability)
            if reference is None:
                if model.manifest.provenance is None:  # packed: nobody knows how ordinary samples look
                    self.log("info", "no drift reference in the bundle: drift is not watched", model=model.name)
                else:
                    remedy = "package the bundle with this version of edgeloop"
                    self.log("warning", "no drift reference", model=model.name, remedy=remedy)
        return self.follower

    def _file(self, sha256: str) -> Path:
        return self.models.state / "drift" / f"{sha256[:32]}.msgpack"

    def _save_state(self, follower: DriftFollower) -> None:
        """Save averages and the last samples' features: a restart must not hide a slow drift."""
        self._to_save = self._file(self._sha256), msgspec.msgpack.encode(follower.state())
        self._saver.ask()

    def _write_state(self) -> None:
        assert self._to_save is not None
        file, content = self._to_save
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            publish(file, content)
            for other in file.parent.glob("*.msgpack"):
                if other != file:
                    other.unlink(missing_ok=True)
            self._saving.works()
        except OSError as error:
            self._saving.fails(f"{error}; {remedy_of(error)}")

    def _restored(self, manifest: Manifest, reference: Drift, sha256: str) -> DriftFollower:
        from edgeloop_agent.drift.monitor import DriftFollower, FollowerState

        follower = DriftFollower(manifest, reference, self.config.drift.false_alarms_per_10k)
        try:
            follower.restore(msgspec.msgpack.decode(self._file(sha256).read_bytes(), type=FollowerState))
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            self.log("warning", "drift state cannot be read", why=error)
        return follower

    def _announce(self, follower: DriftFollower) -> None:
        finding = follower.finding
        kind = "drift" if follower.drifting else "drift over"
        text = (
            f"{finding.cause}: {finding.text}; since {finding.samples} samples"
            if finding and follower.drifting
            else "samples match the reference again"
        )
        if follower.drifting:
            self.counts.drift_alarms += 1
        self.log("warning" if follower.drifting else "info", kind, what=text)
        if self.outbox_writer is not None:
            self.outbox_writer.event(Event(key=os.urandom(16).hex(), kind=kind, at=time.time(), text=text[:2000]))
