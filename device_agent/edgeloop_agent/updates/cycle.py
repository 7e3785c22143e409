"""One update cycle: report, ask, download, test, stage. Its process ends afterwards, so that nothing stays in memory.

All of its state is in the journal; it may be killed at any point.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edgeloop_agent.config import Config
from edgeloop_agent.credential import Credential
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.updates import reports
from edgeloop_agent.updates.cycle_messages import CycleResult
from edgeloop_agent.updates.journal import Journal, Running, Slot, UpdateFolder
from edgeloop_agent.updates.origins import FolderOrigin, Origin
from edgeloop_agent.updates.policy import Install, Stay, decide
from edgeloop_contract.errors import BundleError, BundleTooNew, EdgeloopError, NetworkError, StorageError, UsageError
from edgeloop_contract.messages import Assignment, DriftReport, Event, Heartbeat, Job, JobResult, Report

MAX_SENDING_SECONDS = 120.0
STRUCTURE_ONLY = "structure only: the bundle has no samples to check its answers with"


class KnownAssignment(msgspec.Struct, frozen=True):
    """The hub's last answer, kept so that an unchanged one costs only a few hundred bytes."""

    etag: str = ""
    assignment: Assignment = Assignment()
    settled: bool = False  # this software has nothing left to do for it
    software: str = ""


def software() -> str:
    """Versions of the agent and its runtimes: with other versions, a bundle that failed here may pass."""
    versions = []
    for name in ("edgeloop", "onnxruntime", "ai-edge-litert", "tflite-runtime"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    return ", ".join(versions)


@dataclass
class UpdateCycle:
    """`canary`: a bundle's path → why it fails the canary, or None. Tests of many devices in one process replace it.

    `log`: lines for the hub.
    """

    config: Config
    folder: UpdateFolder
    running: Running
    canary: Callable[[Path], str | None]
    measure: Callable[[Path, Job], JobResult] | None = None
    now: Callable[[], float] = time.time
    log: list[str] = field(default_factory=list)

    def __call__(self, heartbeat: Heartbeat | None, drift: DriftReport | None = None) -> str:
        """Run the cycle; returns what happened, in a few words. Raises NetworkError, StorageError, UsageError."""
        self.folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.folder.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return "another updater is at work"
            if not self.folder.root.exists():
                raise UsageError(f"{self.folder.path}: this device trusts no keys yet; run edgeloop-agent enrol")
            return self._from_hub(heartbeat, drift) if self.config.updates.hub else self._from_folder()

    def _from_hub(self, heartbeat: Heartbeat | None, drift: DriftReport | None) -> str:
        settings = self.config.updates
        credential = self._credential()
        hub = HubClient(
            settings.hub, credential.secret, settings.ca_file, settings.timeout_seconds, self.config.network.use_proxies
        )
        self._report(hub, heartbeat, drift)
        result = self._advance(hub)
        sent = self._send(hub)
        return f"{result}; {sent} rows of the outbox sent" if sent else result

    def _send(self, hub: HubClient) -> int:
        """Send the outbox, for at most `MAX_SENDING_SECONDS`; returns the number of rows."""
        from edgeloop_agent.outbox.sender import send
        from edgeloop_agent.outbox.store import Outbox, outbox_path

        path, settings = outbox_path(self.folder.path.parent), self.config.samples
        if settings.send == "nothing" or not path.exists():
            return 0
        wanted = self._known_assignment().assignment.recordings
        outbox = Outbox(
            path, settings.max_bytes, check=False, context_bytes=settings.context_bytes
        )  # the worker checked it at its start
        try:
            if wanted:
                outbox.release(wanted)
            return send(outbox, hub, settings, time.monotonic() + MAX_SENDING_SECONDS, wanted)
        finally:
            outbox.close()

    def _advance(self, hub: HubClient) -> str:
        """Follow the hub's assignment."""
        settings = self.config.updates
        known = self._known_assignment()
        assignment, etag = hub.assignment(known.etag)
        if assignment is not None:
            known = KnownAssignment(etag, assignment)
            self._remember(known)
        journal = self.folder.load()
        if (
            known.settled
            and known.software == software()
            and self.now() - journal.refreshed < settings.refresh_seconds
            and journal.refreshed <= self.now()
        ):
            return _upgrade_wanted(known.assignment) or "nothing new"
        result, settled = self._take(hub, known.assignment.target, journal)
        if settled and known.assignment.job is not None and self.measure is not None:
            result = self._measure(hub, known.assignment.job)
        if settled:
            self._remember(replace(known, settled=True, software=software()))
        return _upgrade_wanted(known.assignment) or result

    def _from_folder(self) -> str:
        """Install the newest signed version for this model."""
        origin = FolderOrigin(Path(self.config.updates.folder))
        if not origin.path.is_dir():
            return "the folder is not there"
        return self._take(origin, None, self.folder.load())[0]

    def _take(self, origin: Origin, target: str | None, journal: Journal) -> tuple[str, bool]:
        """What happened, and whether nothing is left to do for this target."""
        from edgeloop_agent.updates.trust import TrustError, forget_old, refresh

        try:
            signed = refresh(self.folder, journal, origin, self.now())
        except TrustError as error:
            self._note_event("untrusted", target or "", str(error))
            raise
        now = self.now()
        journal = self.folder.change(
            lambda j: replace(j, generation=signed.generation, clock_floor=max(j.clock_floor, now), refreshed=now)
        )
        forget_old(self.folder, signed.generation)
        if journal.trial is not None:
            return "a bundle is on trial", False
        if target is None:
            mine = [
                o for o in signed.offers.values() if o.model == self.running.model and not journal.rejected(o.sha256, software())
            ]
            target = max(mine, key=lambda o: o.version).target if mine else ""
        step = decide(target, signed, self.running, journal, self.config.updates.max_bundle_bytes, software())
        if isinstance(step, Stay):
            if step.refused:
                self._note_event("refused", target, step.why)
            return step.why, True
        return self._install(step, origin, journal)

    def _install(self, step: Install, origin: Origin, journal: Journal) -> tuple[str, bool]:
        from edgeloop_agent.updates.download import fetch
        from edgeloop_contract.archive import Bundle

        offer, settings, name = step.offer, self.config.updates, journal.free
        path = self.folder.slot(name)
        if step.slot is None:
            # The slot is emptied in the journal before its file changes: what the journal names is always whole.
            self.folder.change(lambda j: j.without(name))
            try:
                fetch(self.folder, offer, origin, path, settings.max_bytes_per_second, settings.min_bytes_per_second)
            except StorageError as error:
                self._note_event("no-room", offer.target, str(error))
                raise
        try:
            with Bundle.open(path) as bundle:
                opened = Running(bundle.manifest.name, bundle.manifest.version, bundle.sha256)
                note = "" if bundle.manifest.canary else STRUCTURE_ONLY
            wrong = None if opened == Running(offer.model, offer.version, offer.sha256) else "it is not what its signature says"
        except BundleTooNew as error:
            why = f"it needs a later edgeloop: update the agent on this device, then it is tried again ({error})"
            self.folder.change(
                lambda j: j.with_rejected(offer.sha256, why[:500], software()).noted(self._event("refused", offer.target, why))
            )  # fmt: skip
            return f"{offer.target} is not taken: {why}", True
        except BundleError as error:
            wrong = str(error)
        wrong = wrong or self.canary(path)
        if wrong:  # as far as this agent and its runtimes can tell
            self.folder.change(
                lambda j: j.with_rejected(offer.sha256, wrong[:500], software()).noted(self._event("failed", offer.target, wrong))
            )  # fmt: skip
            return f"{offer.target} did not pass: {wrong}", True
        slot = Slot(offer.target, offer.model, offer.version, offer.sha256, offer.bytes)
        self.folder.change(lambda j: j.staged(slot, self.now()).noted(self._event("installed", offer.target, note)))
        return f"{offer.target} is staged{note and ', ' + note}", True

    def _measure(self, hub: HubClient, job: Job) -> str:
        """Run a benchmark job of the workstation on a signed bundle."""
        from edgeloop_agent.updates.download import fetch
        from edgeloop_agent.updates.trust import refresh

        assert self.measure is not None
        signed = refresh(self.folder, self.folder.load(), hub, self.now())
        offer = signed.offers.get(job.target)
        if offer is None:
            result = JobResult(id=job.id, refused=f"{job.target} is not among the signed targets")
        else:
            path = self.folder.path / "job.edgeloop"
            limits = self.config.updates
            fetch(self.folder, offer, hub, path, limits.max_bytes_per_second, limits.min_bytes_per_second)
            result = self.measure(path, job)
            path.unlink(missing_ok=True)
        hub.report(Report(key=f"job-{job.id}"[:64], at=self.now(), job=result))
        return f"job {job.id}: {result.refused or 'measured'}"

    def _report(self, hub: HubClient, heartbeat: Heartbeat | None, drift: DriftReport | None) -> None:
        events = self.folder.load().events
        if heartbeat is None and not events:
            return
        report = Report(key=secrets.token_hex(16), at=self.now(), heartbeat=heartbeat, events=events, drift=drift, log=self.log)
        reports.send(self.folder.path, report, hub.report)
        reported = {e.key for e in events}
        self.folder.change(lambda j: replace(j, events=[e for e in j.events if e.key not in reported]))

    def _event(self, kind: str, target: str, text: str) -> Event:
        return Event(key=secrets.token_hex(16), kind=kind, at=self.now(), target=target, text=text[:2000])

    def _note_event(self, kind: str, target: str, text: str) -> None:
        """Record an event, unless it repeats the last one."""
        with contextlib.suppress(StorageError):
            self.folder.change(lambda j: j if _is_repeated(j, kind, text) else j.noted(self._event(kind, target, text)))

    def _credential(self) -> Credential:
        try:
            credential = msgspec.json.decode(self.folder.credential.read_bytes(), type=Credential)
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"{self.folder.credential}: no credential; run edgeloop-agent enrol") from error
        if credential.hub.rstrip("/") != self.config.updates.hub.rstrip("/"):
            raise UsageError(f"{self.folder.credential}: is for {credential.hub}, not {self.config.updates.hub}; enrol there")
        return credential

    def _known_assignment(self) -> KnownAssignment:
        try:
            return msgspec.json.decode((self.folder.path / "asked.json").read_bytes(), type=KnownAssignment)
        except (OSError, msgspec.MsgspecError):
            return KnownAssignment()

    def _remember(self, known: KnownAssignment) -> None:
        from edgeloop_contract.files import publish

        try:
            publish(self.folder.path / "asked.json", msgspec.json.encode(known))
        except OSError as error:
            raise StorageError(f"{self.folder.path}: cannot be written ({error.strerror}); make room") from error


def _upgrade_wanted(assignment: Assignment) -> str:
    later = assignment.needs_upgrade
    return f"{later} is meant for this device, and needs a later agent: update edgeloop here" if later else ""


def _is_repeated(journal: Journal, kind: str, text: str) -> bool:
    return any(e.kind == kind and e.text == text[:2000] for e in journal.events[-1:])


def outcome(cycle: UpdateCycle, heartbeat: Heartbeat | None, drift: DriftReport | None = None) -> CycleResult:
    """Run one cycle; its errors become results too."""
    try:
        return CycleResult("", cycle(heartbeat, drift))
    except NetworkError as error:
        return CycleResult("away", str(error))
    except EdgeloopError as error:
        return CycleResult("warning", str(error))
