"""One update cycle: report, ask, take (taking.py), measure. Its process ends afterwards, so that nothing stays in memory.

All of its state is in the journal; it may be killed at any point.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import msgspec
from msgspec.structs import replace

from edgeloop_agent.config import Config, Jobs
from edgeloop_agent.credential import Credential
from edgeloop_agent.hub_client import HubClient, NotFound
from edgeloop_agent.updates import reports
from edgeloop_agent.updates.cycle_messages import CycleRequest, CycleResult
from edgeloop_agent.updates.journal import Running, UpdateFolder
from edgeloop_agent.updates.origins import FolderOrigin
from edgeloop_agent.updates.taking import Taking, software
from edgeloop_contract.errors import EdgeloopError, NetworkError, StorageError, UsageError
from edgeloop_contract.files import publish, remedy_of
from edgeloop_contract.messages import Assignment, DriftReport, Heartbeat, Job, JobResult, Report

MAX_SENDING_SECONDS = 120.0
MAX_REPORTED_EVENTS = 100  # at once; the others follow with the next report


class KnownAssignment(msgspec.Struct, frozen=True):
    """The hub's last answer, kept so that an unchanged one costs only a few hundred bytes."""

    etag: str = ""
    assignment: Assignment = Assignment()
    settled: bool = False  # this software has nothing left to do for it
    software: str = ""


UNSIGNED = "this device measures by signed jobs alone (jobs.unsigned_bench is false): edgeloop jobs send bench --device DEVICE"


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
    others: Sequence[Running] = ()  # bundles beside the first, and the config
    check_config: Callable[[Path], str | None] = lambda _: "this command takes no configs"
    config_path: Path = Path()  # of the device, for a new agent that checks itself
    lower_priority: Callable[[], object] = lambda: None  # of this process, before a new agent is installed
    jobs: Jobs = field(default_factory=Jobs)  # of the device's own file
    recent: Sequence[str] = ()
    restart_asked: bool = False

    def __call__(
        self, heartbeat: Heartbeat | None, drift: DriftReport | None = None, other_heartbeats: Sequence[Heartbeat] = ()
    ) -> str:
        """Run the cycle; returns what happened, in a few words. Raises NetworkError, StorageError, UsageError."""
        with self._lock() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return "another updater is at work"
            if not self.folder.root.exists():
                raise UsageError(f"{self.folder.path}: this device trusts no keys yet; run edgeloop-agent enrol")
            return self._from_hub(heartbeat, drift, other_heartbeats) if self.config.updates.hub else self._from_folder()

    def _lock(self) -> IO[str]:
        try:
            self.folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            return self.folder.lock.open("w")
        except OSError as error:
            raise StorageError(f"{self.folder.path}: cannot be written ({error.strerror}); {remedy_of(error)}") from error

    def _from_hub(self, heartbeat: Heartbeat | None, drift: DriftReport | None, others: Sequence[Heartbeat]) -> str:
        settings = self.config.updates
        credential = self._credential()
        hub = HubClient(
            settings.hub, credential.secret, settings.ca_file, settings.timeout_seconds, self.config.network.use_proxies
        )
        self._report(hub, heartbeat, drift, others)
        result = self._advance(hub)
        sent = ""
        try:
            sent = self._send(hub)
        except NotFound:  # nothing is wrong with the updates of such a hub: polls go on as they are
            sent = "this hub takes no samples: they wait until it is updated"
        job = self._signed_job(hub, self._known_assignment().assignment.signed_job, credential.device)
        return "; ".join(filter(None, (result, sent, job)))

    def _send(self, hub: HubClient) -> str:
        """Send the outbox, for at most `MAX_SENDING_SECONDS`; returns how many rows arrived, and what the hub refused."""
        from edgeloop_agent.outbox.sender import send
        from edgeloop_agent.outbox.store import Outbox, outbox_path

        path, settings = outbox_path(self.folder.path.parent), self.config.samples
        if settings.send == "nothing" or not path.exists():
            return ""
        wanted = self._known_assignment().assignment.recordings
        outbox = Outbox(
            path, settings.max_bytes, check=False, context_bytes=settings.context_bytes
        )  # the worker checked it at its start
        try:
            if wanted:
                outbox.release(wanted)
            before = outbox.counts()
            rows = send(outbox, hub, settings, time.monotonic() + MAX_SENDING_SECONDS, wanted)
            new = {what: n - before.get(what, 0) for what, n in outbox.counts().items() if "refused" in what}
            said = [f"{rows} rows of the outbox sent"] if rows else []
            return "; ".join([*said, *(f"{what}: {n}, they are gone" for what, n in new.items() if n)])
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
        result, settled = self._taking(known.assignment.until)(hub, [known.assignment.target, *known.assignment.others])
        if settled and known.assignment.job is not None and self.measure is not None and not os.nice(0):
            result = self.measured(hub, known.assignment.job)
        if settled:
            self._remember(replace(known, settled=True, software=software()))
        return _upgrade_wanted(known.assignment) or result

    def _from_folder(self) -> str:
        """Install the newest signed version for this model."""
        origin = FolderOrigin(Path(self.config.updates.folder))
        if not origin.path.is_dir():
            return "the folder is not there"
        return self._taking()(origin, None)[0]

    def _taking(self, until: float = 0.0) -> Taking:
        taking = Taking(self.config, self.folder, self.running, self.others, self.canary, self.check_config, self.now, until=until)
        taking.config_path, taking.lower_priority = self.config_path, self.lower_priority
        return taking

    def measured(self, hub: HubClient, job: Job) -> str:
        """Measure a signed bundle where the hub alone asks, within the bounds of this device: a hub may be taken over."""
        from edgeloop_agent.updates.download import fetch
        from edgeloop_agent.updates.signed_jobs import unsigned
        from edgeloop_agent.updates.trust import refresh

        assert self.measure is not None
        if not self.jobs.unsigned_bench:
            return self._say_measured(hub, JobResult(id=job.id, refused=UNSIGNED))
        job, why = unsigned(self.folder, job, self.jobs, self.now())
        if why:
            return f"job {job.id} waits: {why}"
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
        return self._say_measured(hub, result)

    def _say_measured(self, hub: HubClient, result: JobResult) -> str:
        hub.report(Report(key=f"job-{result.id}"[:64], at=self.now(), job=result))
        return f"job {result.id}: {result.refused or 'measured'}"

    def _signed_job(self, hub: HubClient, text: str, device: str) -> str:
        if not text:
            return ""
        from edgeloop_agent.updates.signed_jobs import SignedJobs, measured

        settings, run = self.config.updates, self.measure
        rates = settings.max_bytes_per_second, settings.min_bytes_per_second
        measure = partial(measured, self.folder, hub, run=run, rates=rates, now=self.now()) if run is not None else None
        jobs = SignedJobs(self.folder, self.jobs, device, self.recent, measure, self.now)
        try:
            return jobs(hub, text)
        finally:
            self.restart_asked = jobs.restart_asked

    def _report(self, hub: HubClient, heartbeat: Heartbeat | None, drift: DriftReport | None, others: Sequence[Heartbeat]) -> None:
        events = [event for folder in self.folder.all() for event in folder.load().events][:MAX_REPORTED_EVENTS]
        if heartbeat is None and not events:
            return
        report = Report(
            key=secrets.token_hex(16),
            at=self.now(),
            heartbeat=heartbeat,
            others=list(others),
            events=events,
            drift=drift,
            log=self.log,
        )
        reports.send(self.folder.path, report, hub.report)
        reported = {e.key for e in events}
        for folder in self.folder.all():
            if not reported.isdisjoint(e.key for e in folder.load().events):
                folder.change(lambda j: replace(j, events=[e for e in j.events if e.key not in reported]))

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
        try:
            publish(self.folder.path / "asked.json", msgspec.json.encode(known))
        except OSError as error:
            raise StorageError(f"{self.folder.path}: cannot be written ({error.strerror}); {remedy_of(error)}") from error


def _upgrade_wanted(assignment: Assignment) -> str:
    later = assignment.needs_upgrade
    return f"{later} is meant for this device, and needs a later agent: update edgeloop here" if later else ""


def outcome(cycle: UpdateCycle, request: CycleRequest) -> CycleResult:
    """Run one cycle; its errors become results too."""
    try:
        text = cycle(request.heartbeat, request.drift, request.other_heartbeats)
        return CycleResult("", text, cycle.restart_asked)
    except NetworkError as error:
        return CycleResult("away", str(error))
    except EdgeloopError as error:
        return CycleResult("warning", str(error))
    except OSError as error:  # of a disk that fails where nothing else expects it
        return CycleResult("warning", f"{error.filename or cycle.folder.path}: {error.strerror}; {remedy_of(error)}")
