"""Jobs that the holder of the targets key signed for this device: taken once each, in the order of their numbers, if its own
config allows their kind. There are three kinds, and none of them runs what somebody sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from securesystemslib.signer import Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edgeloop_agent.config import Jobs
from edgeloop_agent.hub_client import HubClient
from edgeloop_agent.updates import reports
from edgeloop_agent.updates.journal import UpdateFolder
from edgeloop_agent.updates.trust import TrustError, refresh
from edgeloop_contract.errors import DataError, NetworkError, StorageError
from edgeloop_contract.files import publish
from edgeloop_contract.messages import Job, JobResult, Report
from edgeloop_contract.signed_jobs import MAX_LINE, MAX_LINES, JobOrder, SignedJob, order_of, signed_bytes

FILE = "jobs.json"
HOUR, AHEAD_SECONDS = 3600.0, 600.0
SAID = r"\b((?:\w*[_-])?(?:password|passwd|token|secret|key|authorization)"  # before its value
REDACTED = (  # from lines of the log, before they leave the device
    (re.compile(r"://[^/\s@]*@"), "://…@"),
    (re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE), r"\1 …"),
    (re.compile(SAID + r"""["']?\s*[=:]\s*)("[^"]*"|\S+)""", re.IGNORECASE), r"\1…"),
    (re.compile(r"\b(device|api|enrol|session)-[\w-]{20,}"), r"\1-…"),
)  # fmt: skip


class TakenJobs(msgspec.Struct, frozen=True):
    """`last`: the highest number that was taken. `times`: when jobs of the last hour were, seconds since 1970."""

    last: int = 0
    times: list[float] = []


def redacted(lines: Sequence[str]) -> list[str]:
    """The last lines, without what looks like a secret."""
    cut = []
    for line in lines[-MAX_LINES:]:
        for pattern, instead in REDACTED:
            line = pattern.sub(instead, line)
        cut.append(line[:MAX_LINE])
    return cut


def waits(order: JobOrder, taken: TakenJobs, settings: Jobs, now: float, busy: str) -> str:
    """Why the job is not taken now, and stays for later; "" where it can be."""
    if order.number / 1000 > now + AHEAD_SECONDS:
        return "it was signed in the future; are this device's clock and the workstation's right?"
    return too_many(taken, settings, now) or busy


def recent(taken: TakenJobs, now: float) -> list[float]:
    """When the jobs of the last hour were taken."""
    return [at for at in taken.times if now - HOUR < at <= now]


def too_many(taken: TakenJobs, settings: Jobs, now: float) -> str:
    """Why no further job is taken in this hour; "" where one may be."""
    many = len(recent(taken, now))
    if many < settings.max_per_hour:
        return ""
    return f"{many} jobs were taken in this hour; jobs.max_per_hour is {settings.max_per_hour}"


def refusal(order: JobOrder, settings: Jobs, now: float) -> str:
    """Why this device does not do the job, for good; "" where it does."""
    if now >= order.expires:
        return "it has expired"
    if order.kind not in settings.allow:
        return f"this device does not allow jobs of the kind {order.kind}: add it to jobs.allow in its own config"
    return ""


@dataclass
class SignedJobs:
    """`settings`: `[jobs]` of the device's own file. `lines`: of its log, the newest last. `measure`: None while it is not idle."""

    folder: UpdateFolder
    settings: Jobs
    device: str
    lines: Sequence[str]
    measure: Callable[[JobOrder], JobResult] | None
    now: Callable[[], float]
    restart_asked: bool = False

    def __call__(self, hub: HubClient, text: str) -> str:
        """What came of the hub's job, in words; "" for one that was taken before.

        Raises TrustError where the trusted keys did not sign it, DataError for one that is none, NetworkError, StorageError.
        """
        try:
            job = msgspec.json.decode(text, type=SignedJob)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise DataError(f"not a job: {error}") from error
        order, taken = order_of(job), taken_of(self.folder)
        if order.number <= taken.last:
            return ""
        if self.device not in order.devices:
            raise TrustError(f"job {order.number} is for other devices; nothing was done")
        now = max(self.now(), self.folder.load().clock_floor)
        if why := waits(order, taken, self.settings, now, self._busy(order)):
            return f"job {order.number} waits: {why}"
        self._verify(job, hub)
        # Kept before it is done: whatever happens meanwhile, it is not done twice.
        keep(self.folder, TakenJobs(order.number, [*recent(taken, now), now]))
        why = refusal(order, self.settings, now)
        result = JobResult(id=str(order.number), refused=why) if why else self._done(order)
        self.restart_asked = order.kind == "restart" and not result.refused
        said = f"job {order.number} ({order.kind}): {result.refused or 'done'}"
        try:
            reports.send(self.folder.path, Report(key=f"job-{order.number}", at=self.now(), job=result), hub.report)
        except NetworkError as error:
            return f"{said}; its result waits for the hub ({error})"
        return said

    def _busy(self, order: JobOrder) -> str:
        if order.kind == "bench" and self.measure is None:
            return "the device is not idle"
        if order.kind != "logs" and any(folder.load().trial for folder in self.folder.all()):
            return "a bundle is on trial"
        return ""

    def _done(self, order: JobOrder) -> JobResult:
        if order.kind == "bench":
            assert self.measure is not None
            return msgspec.structs.replace(self.measure(order), id=str(order.number))
        return JobResult(id=str(order.number), lines=redacted(self.lines) if order.kind == "logs" else [])

    def _verify(self, job: SignedJob, hub: HubClient) -> None:
        """Against the newest root: a key that was replaced signs no job either."""
        signed = refresh(self.folder, self.folder.load(), hub, self.now())
        path = self.folder.metadata(signed.generation) / "root.json"
        try:
            root = Metadata[Root].from_bytes(path.read_bytes()).signed
            signatures = {each.keyid: Signature(each.keyid, each.sig) for each in job.signatures}
            root.verify_delegate("targets", signed_bytes(job.order), signatures)
        except (RepositoryError, ValueError) as error:
            raise TrustError(f"the trusted keys did not sign this job ({error}); nothing was done") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror})") from error


def taken_of(folder: UpdateFolder) -> TakenJobs:
    """Raises StorageError for a damaged file: without it a job could be done twice."""
    path = folder.path / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=TakenJobs)
    except FileNotFoundError:
        return TakenJobs()
    except (OSError, msgspec.MsgspecError) as error:
        raise StorageError(f"{path}: cannot be read ({error}); no job is taken until it is mended or deleted") from error


def keep(folder: UpdateFolder, taken: TakenJobs) -> None:
    path = folder.path / FILE
    try:
        publish(path, msgspec.json.encode(taken))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); no job is taken") from error


def unsigned(folder: UpdateFolder, job: Job, settings: Jobs, now: float) -> tuple[Job, str]:
    """A measurement that the hub alone asks for, within this device's bounds; and why it waits. One that may begin is counted.

    Raises StorageError.
    """
    taken = taken_of(folder)
    usual = Job(id=job.id, target=job.target)
    bounded = msgspec.structs.replace(
        job, max_seconds=min(job.max_seconds, usual.max_seconds), max_celsius=min(job.max_celsius, usual.max_celsius)
    )
    why = too_many(taken, settings, now)
    if not why:
        keep(folder, TakenJobs(taken.last, [*recent(taken, now), now]))
    return bounded, why


def measured(folder: UpdateFolder, hub: HubClient, order: JobOrder, run: Callable[[Path, Job], JobResult], rates: tuple[int, int],
             now: float) -> JobResult:  # fmt: skip
    """Fetch a signed bundle and measure it. `rates`: the highest and the lowest of the download, bytes a second."""
    from edgeloop_agent.updates.download import fetch

    job = Job(id=str(order.number), target=order.target)
    offer = refresh(folder, folder.load(), hub, now).offers.get(order.target)
    if offer is None:
        return JobResult(id=job.id, refused=f"{order.target} is not among the signed targets")
    path = folder.path / "job.edgeloop"
    fetch(folder, offer, hub, path, *rates)
    try:
        return run(path, job)
    finally:
        path.unlink(missing_ok=True)
