"""Who is in a rollout's steps so far, and who is not: of all devices of its channel and model, at each tick."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, compress
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, literal, select

from edgeloop_hub.groups import pins
from edgeloop_hub.groups.store import MARK, marked_condition
from edgeloop_hub.rollouts.policy import Rollout
from edgeloop_hub.storage.fleet_tables import device_bundles
from edgeloop_hub.storage.many_rows import read_in_parts
from edgeloop_hub.storage.schema import devices

ROWS_AT_ONCE = 10_000


class Member(NamedTuple):
    """`sha256`: of the rollout's model, that the device runs."""

    name: str
    labels: Sequence[str]
    sha256: str


class Members(NamedTuple):
    """Devices of a rollout's channel and model: those of the cohort so far, and the others.

    How many of the others are in a cohort's step and cannot read the bundle (`need_upgrade`), or are pinned to another one.
    """

    cohort: list[Member]
    others: list[Member]
    need_upgrade: int
    pinned: int


def members(connection: Connection, rollout: Rollout) -> Members:
    columns: list[ColumnElement[Any]] = [devices.c.name, devices.c.labels, devices.c.sha256]
    # A large column, for the newest schema alone.
    columns += [devices.c.heartbeat if rollout.schema > 1 else literal("").label("heartbeat")]
    here = (devices.c.channel == rollout.channel, devices.c.revoked.is_(None))
    marks = sorted({step.label for step in rollout.plan.steps if step.label.startswith(MARK)})
    columns += [marked_condition(connection, mark, devices.c.name).label(f"in_{n}") for n, mark in enumerate(marks)]
    rows = select(*columns).where(*here, devices.c.model == rollout.model)
    # Those that run it beside their first bundle: `sha256` is that of this model.
    beside = select(*columns[:2], device_bundles.c.sha256, *columns[3:]).join(
        device_bundles, device_bundles.c.device == devices.c.name
    )
    beside = beside.where(*here, device_bundles.c.model == rollout.model, devices.c.model != rollout.model)
    pinned = pins.elsewhere(connection, rollout.model, rollout.target)
    cohort, others, need_upgrade, pinned_inside = list[Member](), list[Member](), 0, 0
    parts = (read_in_parts(connection, query, [devices.c.name], ROWS_AT_ONCE) for query in (rows, beside))
    found: Iterable[Any] = chain.from_iterable(parts)
    for name, labels, sha256, heartbeat, *in_marks in found:
        labels = _labels_of(labels)
        if any(in_marks):
            labels = (*labels, *compress(marks, in_marks))
        inside = rollout.cohort_has(name, labels)
        if inside and name in pinned:
            inside, pinned_inside = False, pinned_inside + 1
        reads = rollout.schema == 1 or sha256 == rollout.target_sha256 or not inside or _reads(heartbeat) >= rollout.schema
        need_upgrade += inside and not reads
        (cohort if inside and reads else others).append(Member(name, labels, sha256))
    return Members(cohort, others, need_upgrade, pinned_inside)


@lru_cache(1024)
def _labels_of(text: str) -> tuple[str, ...]:
    """Most devices of a fleet have the same few."""
    return tuple(json.loads(text))


class _Reader(msgspec.Struct, gc=False):
    reads: int = 1


def _reads(heartbeat: str) -> int:
    try:
        return _READERS.decode(heartbeat).reads
    except (msgspec.MsgspecError, RecursionError):
        return 1


_READERS = msgspec.json.Decoder(_Reader)
