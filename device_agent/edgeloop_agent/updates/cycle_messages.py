"""What the worker and the updater's process say to each other: JSON on standard input and output."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgeloop_agent.updates.journal import Running
from edgeloop_contract.messages import DriftReport, Heartbeat

Level = Literal["", "away", "warning"]  # "": it went well; "away": the hub or folder is not there; "warning": somebody must act


class CycleRequest(msgspec.Struct, frozen=True):
    """From the worker: what runs, the first bundle and the others, and the report for the hub."""

    running: Running
    others: list[Running] = []
    heartbeat: Heartbeat | None = None
    other_heartbeats: list[Heartbeat] = []
    drift: DriftReport | None = None
    idle: bool = True
    celsius: float | None = None
    log: list[str] = []
    recent: list[str] = []  # lines of the log, for a job that asks for them


class CycleResult(msgspec.Struct, frozen=True):
    """From the updater: what happened, in one sentence for the log."""

    level: Level
    text: str
    restart: bool = False  # a signed job asks for it
