"""Jobs: a device measures a published bundle when it is idle."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, insert, select

from edgeloop_contract.bench_report import BenchReport
from edgeloop_contract.hub_messages import JobOutcome, JobState, JobStatus
from edgeloop_hub.storage.schema import bundles, devices, jobs


def create(connection: Connection, device: str, target: str) -> str:
    """The new job's id."""
    job = secrets.token_hex(8)
    values = {"device": device, "target": target, "state": "waiting", "at": time.time(), "result": "{}"}
    connection.execute(insert(jobs).values(id=job, **values))
    return job


def is_enrolled(connection: Connection, device: str) -> bool:
    """Whether a device of that name may get a job."""
    here = select(devices.c.name).where(devices.c.name == device, devices.c.revoked.is_(None))
    return connection.execute(here).first() is not None


def is_published(connection: Connection, target: str) -> bool:
    return connection.execute(select(bundles.c.target).where(bundles.c.target == target)).first() is not None


def status(connection: Connection, job: str) -> JobStatus | None:
    """None where there is no such job."""
    row = connection.execute(select(jobs).where(jobs.c.id == job)).first()
    if row is None:
        return None
    result = msgspec.json.decode(row.result, type=JobOutcome)
    return JobStatus(id=row.id, device=row.device, target=row.target, state=row.state, result=result)


@dataclass(frozen=True)
class Measurement:
    """A job as a line on a page. `text`: what was measured, or why nothing was."""

    target: str
    state: JobState
    at: float
    text: str


def newest(connection: Connection, device: str, limit: int) -> list[Measurement]:
    """A device's jobs, the newest first."""
    rows = connection.execute(select(jobs).where(jobs.c.device == device).order_by(jobs.c.at.desc()).limit(limit))
    return [Measurement(row.target, row.state, row.at, _in_words(row.result)) for row in rows]


class _Result(msgspec.Struct):
    refused: str = ""
    measured: BenchReport = BenchReport([])


def _in_words(result: str) -> str:
    """A job's result in words; "" where the device sent something else."""
    try:
        outcome = msgspec.json.decode(result, type=_Result)
    except (msgspec.MsgspecError, RecursionError):
        return ""
    parts = [f"{r.variant} {r.cost.latency_us_p50:,.0f} µs" for r in outcome.measured.variants[:6] if r.cost is not None]
    if (s := outcome.measured.sustained) is not None:
        parts += [f"{s.per_second:,.0f}/s sustained", f"{s.memory_bytes / 2**20:.1f} MiB"]
        parts += [f"{s.microjoules:,.0f} µJ an inference" if s.microjoules is not None else "energy not measurable there"]
        parts += [f"{s.celsius:.0f} °C"] if s.celsius is not None else []
    return outcome.refused or ", ".join(parts)
