"""Heartbeats and polls of test devices, at a rate or as fast as they are answered."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from edgeloop_contract.messages import DriftReport, Heartbeat, Moments, Report
from edgeloop_hub.load.connection import Address, Connection, NoAnswer
from edgeloop_hub.load.figures import Figures

MODEL, SHA256 = "load-test", "0" * 64
PAUSE_SECONDS = 0.2  # of a connection that got no answer
KINDS = ("reports", "polls")


@dataclass(frozen=True)
class Plan:
    """`rate`: requests a second of all connections together; 0: as fast as they are answered. `drift`: each report has one."""

    connections: int
    seconds: float
    rate: float
    kinds: tuple[str, ...] = KINDS
    drift: bool = False


@dataclass
class Result:
    """`seconds`: that the load lasted. `cpu_seconds`: of this process, which takes them from a hub on the same machine."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    figures: dict[str, Figures] = field(default_factory=dict)


class _Clock:
    """When each request is due. At a rate a request that is sent late has waited since it was due."""

    def __init__(self, plan: Plan) -> None:
        self._begun, self._rate, self._next = time.monotonic(), plan.rate, itertools.count()
        self.ends = self._begun + plan.seconds

    async def due(self, stop: asyncio.Event) -> float | None:
        """The time; None: it is over."""
        now = time.monotonic()
        at = self._begun + next(self._next) / self._rate if self._rate else now
        if stop.is_set() or at >= self.ends or now >= self.ends:
            return None
        if at > now:
            await _sleep(stop, at - now)
        return None if stop.is_set() else at


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except (TimeoutError, asyncio.TimeoutError):
        return


async def load(address: Address, credentials: list[str], plan: Plan, stop: asyncio.Event) -> Result:
    """Until it is over, or `stop` is set."""
    result = Result(figures={kind: Figures() for kind in plan.kinds})
    clock, begun, cpu = _Clock(plan), time.monotonic(), time.process_time()
    asked = _asked(credentials, plan)
    await asyncio.gather(*(_work(Connection(address), asked, clock, result, plan.drift, stop) for _ in range(plan.connections)))
    result.seconds, result.cpu_seconds = time.monotonic() - begun, time.process_time() - cpu
    return result


@dataclass
class _Device:
    credential: str
    etag: str = ""


def _asked(credentials: list[str], plan: Plan) -> Iterator[tuple[_Device, str]]:
    """Who asks what, round and round."""
    devices = [_Device(credential) for credential in credentials]
    return itertools.cycle((device, kind) for kind in plan.kinds for device in devices)


async def _work(
    connection: Connection, asked: Iterator[tuple[_Device, str]], clock: _Clock, result: Result, drift: bool, stop: asyncio.Event
) -> None:
    try:
        while (due := await clock.due(stop)) is not None:
            device, kind = next(asked)
            try:
                if kind == "reports":
                    reply = await connection.ask("POST", "/api/v1/report", device.credential, _report(drift))
                else:
                    reply = await connection.ask("GET", "/api/v1/update", device.credential, etag=device.etag)
                    device.etag = reply.etag or device.etag
                result.figures[kind].add(reply.status, time.monotonic() - due)
            except NoAnswer as error:
                result.figures[kind].fail(str(error))
                await _sleep(stop, PAUSE_SECONDS)
    finally:
        await connection.close()


def _report(drift: bool) -> bytes:
    beat = Heartbeat(
        model=MODEL, version=1, sha256=SHA256, answered=600, seconds=300.0, latency_us_p50=500.0, latency_us_p95=900.0,
        celsius=50.0, memory_bytes=10**8, confidence=Moments(count=600, mean=0.9, variance=0.01), labels={"A": 300, "B": 300},
    )  # fmt: skip
    shifts = {f"feature {i}": 0.1 for i in range(6)}
    told = DriftReport(model=MODEL, sha256=SHA256, samples=600, score=0.3, shifts=shifts, confidence=[60] * 10) if drift else None
    return msgspec.json.encode(Report(key=secrets.token_hex(16), at=time.time(), heartbeat=beat, drift=told))
