"""Rollouts as they are stored in the database."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_hub.rollouts.policy import OPEN, Plan, Rollout
from edgeloop_hub.storage.schema import bundles, rollouts

_ROLLOUTS = select(rollouts, bundles.c.sha256).join(bundles, bundles.c.target == rollouts.c.target)


def open_rollouts(connection: Connection, *states: str) -> list[Rollout]:
    """Those that are not over: running, paused or halted. One whose plan cannot be read offers nothing to anybody."""
    found = []
    for row in connection.execute(_ROLLOUTS.where(rollouts.c.state.in_(states or (*OPEN, "halted"))).order_by(rollouts.c.id)):
        with contextlib.suppress(DataError):
            found.append(_rollout(row))
    return found


def open_numbers(connection: Connection, *states: str) -> list[int]:
    wanted = states or (*OPEN, "halted")
    return list(connection.execute(select(rollouts.c.id).where(rollouts.c.state.in_(wanted)).order_by(rollouts.c.id)).scalars())


def find(connection: Connection, number: int) -> Rollout:
    """Raises UsageError when there is none, DataError for a plan that cannot be read."""
    row = connection.execute(_ROLLOUTS.where(rollouts.c.id == number)).first()
    if row is None:
        raise UsageError(f"there is no rollout {number}")
    return _rollout(row)


def _rollout(row: Any) -> Rollout:
    try:
        plan = _plan(row.plan)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"rollout {row.id}: its plan cannot be read ({error}); abort it, and start another") from error
    return Rollout(row.id, row.channel, row.model, row.target, row.sha256, plan, row.state, row.step, row.step_began)


@lru_cache(64)
def _plan(text: str) -> Plan:
    return msgspec.json.decode(text, type=Plan)
