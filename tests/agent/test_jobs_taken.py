"""Signed jobs on a device: what it takes, once, and what it refuses, whoever passes it on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner

from edgeloop_agent.config import Jobs
from edgeloop_agent.updates.cycle import UpdateCycle
from edgeloop_agent.updates.journal import Slot
from edgeloop_agent.updates.origins import FolderOrigin
from edgeloop_agent.updates.signed_jobs import FILE, SignedJobs, redacted
from edgeloop_agent.updates.trust import TrustError
from edgeloop_contract.errors import DataError, NetworkError, StorageError
from edgeloop_contract.messages import Job, JobResult, Report
from edgeloop_contract.signed_jobs import MAX_LINE, MAX_LINES, JobOrder, JobSignature, SignedJob, signed_bytes
from update_bench import Bench


@dataclass
class FakeHub:
    """The metadata of a folder; keeps what it is told."""

    origin: FolderOrigin
    reports: list[Report] = field(default_factory=list)
    away: bool = False

    def metadata(self, name: str) -> Iterator[bytes]:
        return self.origin.metadata(name)

    def report(self, report: Report) -> None:
        if self.away:
            raise NetworkError("the hub is away")
        self.reports.append(report)


class Device:
    """`done`: orders that were measured."""

    def __init__(self, folder: Path) -> None:
        self.bench, self.hub = Bench(folder), FakeHub(FolderOrigin(folder / "stick"))
        self.done: list[JobOrder] = []
        self.settings, self.idle, self.lines = Jobs(["logs", "bench", "restart"]), True, ["one", "two"]
        self.restarts = 0

    def _measure(self, order: JobOrder) -> JobResult:
        self.done.append(order)
        return JobResult(id="x", measured={"p50": 1})

    def take(self, text: str) -> str:
        measure = self._measure if self.idle else None
        jobs = SignedJobs(self.bench.folder, self.settings, "pi-1", self.lines, measure, lambda: self.bench.now())
        said = jobs(self.hub, text)
        self.restarts += jobs.restart_asked
        return said

    @property
    def key(self) -> CryptoSigner:
        return self.bench.repository.keys["targets"]

    @property
    def results(self) -> list[JobResult]:
        return [report.job for report in self.hub.reports if report.job is not None]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


_numbers = iter(range(1, 1000))


def job(signer: Any, kind: str = "logs", devices: tuple[str, ...] = ("pi-1",), **more: Any) -> str:
    number = more.pop("number", int(time.time() * 1000) + next(_numbers))
    values = {
        "number": number,
        "kind": kind,
        "devices": list(devices),
        "expires": more.pop("expires", number / 1000 + 3600),
        **more,
    }
    order = msgspec.json.encode(values).decode()
    made = signer.sign(more.pop("signed", signed_bytes(order)))
    return msgspec.json.encode(SignedJob(order, [JobSignature(made.keyid, made.signature)])).decode()


def test_each_kind_is_done_once(device: Device) -> None:
    logs, bench, restart = job(device.key), job(device.key, "bench", target="a.edgeloop"), job(device.key, "restart")
    assert "done" in device.take(logs) and device.results[-1].lines == ["one", "two"]
    assert "done" in device.take(bench) and device.results[-1].measured == {"p50": 1} and device.results[-1].lines == []
    assert "done" in device.take(restart) and device.restarts == 1
    for replayed in (logs, bench, restart):
        assert device.take(replayed) == ""
    assert len(device.results) == 3 and len(device.done) == 1 and device.restarts == 1


def test_what_is_not_allowed_is_refused_and_off_is_the_default(device: Device) -> None:
    device.settings = Jobs()
    for kind, more in (("logs", {}), ("bench", {"target": "a.edgeloop"}), ("restart", {})):
        assert f"does not allow jobs of the kind {kind}" in device.take(job(device.key, kind, **more))
    assert [bool(result.refused) for result in device.results] == [True] * 3
    assert not device.done and not device.restarts and not any(result.lines for result in device.results)


def test_nobody_elses_key_commands_a_device(device: Device) -> None:
    keys = {"a stranger's": CryptoSigner.generate_ed25519(), "the hub's snapshot": device.bench.repository.keys["snapshot"],
            "the hub's timestamp": device.bench.repository.keys["timestamp"], "a root": device.bench.repository.root_keys[0]}  # fmt: skip
    for name, key in keys.items():
        with pytest.raises(TrustError, match="did not sign"):
            device.take(job(key, "restart"))
        assert not device.restarts and not device.results, name
    assert not (device.bench.folder.path / FILE).exists()  # and no number is lost by it
    stolen = msgspec.json.decode(job(CryptoSigner.generate_ed25519()), type=SignedJob)
    forged = msgspec.structs.replace(stolen, signatures=[JobSignature(device.key.public_key.keyid, stolen.signatures[0].sig)])
    with pytest.raises(TrustError, match="did not sign"):
        device.take(msgspec.json.encode(forged).decode())


def test_a_signature_of_something_else_is_none_of_a_job(device: Device) -> None:
    """The very same JSON, signed as metadata are: without the type of a job."""
    order = msgspec.json.encode(
        {"number": int(time.time() * 1000), "kind": "restart", "devices": ["pi-1"], "expires": time.time() + 60}
    )
    made = device.key.sign(order)
    with pytest.raises(TrustError):
        device.take(msgspec.json.encode(SignedJob(order.decode(), [JobSignature(made.keyid, made.signature)])).decode())


def test_a_key_that_was_replaced_signs_no_job(device: Device) -> None:
    old = device.key
    device.bench.repository.keys["targets"] = CryptoSigner.generate_ed25519()
    device.bench.repository.root()
    device.bench.repository.publish()
    with pytest.raises(TrustError, match="did not sign"):
        device.take(job(old, "restart"))
    assert "done" in device.take(job(device.key, "restart"))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "shell"}, {"kind": "bench"}, {"kind": "logs", "target": "a.edgeloop"}, {"command": "rm -rf /"}, {"devices": []},
        {"devices": ["pi-1"] * 101}, {"expires": time.time() + 1e7}, {"expires": 1.0}, {"number": -1}, {"number": 2**60},
    ],
)  # fmt: skip
def test_nothing_else_can_be_asked(device: Device, change: dict[str, Any]) -> None:
    more = dict(change)
    with pytest.raises(DataError, match="not a job"):
        device.take(job(device.key, more.pop("kind", "logs"), tuple(more.pop("devices", ["pi-1"])), **more))
    assert not device.results


@pytest.mark.parametrize(
    "text", ["", "{}", "[" * 40_000, '{"order": "x", "signatures": []}', '{"order": "\\ud800", "signatures": []}', "nul"]
)
def test_what_is_no_job_is_one_sentence(device: Device, text: str) -> None:
    with pytest.raises(DataError, match="not a job"):
        device.take(text)


def test_for_another_device_expired_or_of_the_future(device: Device) -> None:
    with pytest.raises(TrustError, match="other devices"):
        device.take(job(device.key, devices=("pi-2",)))
    old = int(time.time() * 1000) - 7_200_000
    assert "it has expired" in device.take(job(device.key, "restart", number=old)) and not device.restarts
    later = job(device.key, number=int(time.time() * 1000) + 86_400_000)
    assert "signed in the future" in device.take(later)
    assert "done" in device.take(job(device.key))  # the one of the future blocked nothing
    device.bench.folder.change(lambda j: msgspec.structs.replace(j, clock_floor=time.time() + 7200))
    device.bench.now = lambda: 1000.0  # a board without a clock battery
    assert "it has expired" in device.take(job(device.key, "restart")) and not device.restarts


def test_the_rate_and_what_waits(device: Device) -> None:
    device.settings = Jobs(["logs", "bench", "restart"], 2)
    device.idle = False
    bench = job(device.key, "bench", target="a.edgeloop")
    assert "not idle" in device.take(bench) and not device.results
    device.idle = True
    assert "done" in device.take(bench)
    device.bench.folder.change(lambda j: j.staged(Slot("t", "m", 2, "0" * 64, 1), time.time()))
    restart = job(device.key, "restart")
    assert "on trial" in device.take(restart) and not device.restarts
    device.bench.folder.change(lambda j: j.without("a").without("b") if not j.trial else msgspec.structs.replace(j, trial=None))
    assert "done" in device.take(restart)
    third = job(device.key)
    assert "max_per_hour is 2" in device.take(third)
    now = time.time()
    device.bench.now = lambda: now + 3599
    assert "max_per_hour" in device.take(third)
    device.bench.now = lambda: now + 3602
    assert "has expired" in device.take(third)


def test_a_result_waits_for_the_hub_and_a_damaged_memory_takes_nothing(device: Device) -> None:
    device.hub.away = True
    assert "waits for the hub" in device.take(job(device.key))
    device.hub.away = False
    assert "done" in device.take(job(device.key)) and len(device.results) == 2
    (device.bench.folder.path / FILE).write_text("{half")
    with pytest.raises(StorageError, match="no job is taken"):
        device.take(job(device.key, "restart"))
    assert not device.restarts


def test_lines_leave_without_secrets_and_bounded() -> None:
    secret = "q" * 40
    for line in (
        f"updates result=https://ada:{secret}@hub.example/x", f"asked Authorization: Bearer {secret}", f'mqtt password="{secret}"',
        f"header x-api-key={secret}", f"token_file read token={secret}", f"device-{secret} was here", f'{{"secret": "{secret}"}}',
    ):  # fmt: skip
        assert secret not in redacted([line])[0], line
    assert redacted(["2026-11-30 info ready seconds=3 file=a.csv"]) == ["2026-11-30 info ready seconds=3 file=a.csv"]
    many = redacted(["x" * 5000] * 500)
    assert len(many) == MAX_LINES and all(len(line) == MAX_LINE for line in many)


@dataclass
class WholeHub(FakeHub):
    """With the bundles of the folder too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.origin, name)


def test_an_unsigned_measurement_stays_within_the_devices_own_bounds(tmp_path: Path) -> None:
    """A hub that was taken over asks for a year at any heat, again and again."""
    bench, hub, asked = Bench(tmp_path), WholeHub(FolderOrigin(tmp_path / "stick")), list[Job]()
    target = bench.offer(2)
    bench.repository.publish()

    def measure(path: Path, job: Job) -> JobResult:
        assert path.stat().st_size
        asked.append(job)
        return JobResult(id=job.id, measured={"p50": 1})

    def told(number: int, settings: Jobs, target: str = target) -> str:
        cycle = UpdateCycle(
            bench.config, bench.folder, bench.running(), lambda _: None, measure, lambda: bench.now(), jobs=settings
        )
        return cycle.measured(hub, Job(id=f"job-{number}", target=target, max_seconds=3e7, max_celsius=9e3))  # type: ignore[arg-type]

    assert told(1, Jobs()) == "job job-1: measured"
    assert [(job.max_seconds, job.max_celsius) for job in asked] == [(120.0, 70.0)]
    assert "not among the signed targets" in told(2, Jobs(), "another.edgeloop")
    for number in range(3, 7):
        told(number, Jobs())
    assert "waits: 6 jobs were taken in this hour" in told(7, Jobs()) and len(asked) == 5
    late = time.time() + 3700
    bench.now = lambda: late
    assert told(7, Jobs()) == "job job-7: measured"
    assert "by signed jobs alone" in told(8, Jobs(unsigned_bench=False)) and len(asked) == 6
    assert hub.reports[-1].job is not None and "jobs.unsigned_bench" in hub.reports[-1].job.refused
    (bench.folder.path / FILE).write_text("{")
    with pytest.raises(StorageError, match="no job is taken"):
        told(9, Jobs())
