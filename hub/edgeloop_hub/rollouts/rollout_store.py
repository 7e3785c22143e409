"""Rollouts as they are stored in the database."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select

from edgeloop_contract.errors import DataError, UsageError
from edgeloop_contract.gate_messages import GateLook, GatePower
from edgeloop_contract.rollout import RolloutPlan, RolloutState
from edgeloop_hub.rollouts.policy import OPEN, Rollout
from edgeloop_hub.storage.schema import bundles, rollout_looks, rollouts
from edgeloop_hub.updates.registry import needed_schema

_ROLLOUTS = select(rollouts, bundles.c.sha256, bundles.c.about).join(bundles, bundles.c.target == rollouts.c.target)


def open_rollouts(connection: Connection) -> list[Rollout]:
    """Rollouts that are not over, oldest first. One whose plan cannot be read is left out: it offers nothing to any device."""
    readable = []
    for row in connection.execute(_ROLLOUTS.where(rollouts.c.state.in_(OPEN)).order_by(rollouts.c.id)):
        with contextlib.suppress(DataError):
            readable.append(_rollout(row))
    return readable


def open_ids(connection: Connection, states: Sequence[RolloutState] = OPEN) -> list[int]:
    """The numbers of the rollouts in these states, oldest first."""
    return list(connection.execute(select(rollouts.c.id).where(rollouts.c.state.in_(states)).order_by(rollouts.c.id)).scalars())


def find(connection: Connection, number: int) -> Rollout:
    """Raises UsageError when there is none, DataError for a plan that cannot be read."""
    row = connection.execute(_ROLLOUTS.where(rollouts.c.id == number)).first()
    if row is None:
        raise UsageError(f"there is no rollout {number}")
    return _rollout(row)


def _rollout(row: Any) -> Rollout:
    try:
        plan = plan_of(row.plan)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DataError(f"rollout {row.id}: its plan cannot be read ({error}); abort it, and start another") from error
    return Rollout(
        row.id, row.channel, row.model, row.target, row.sha256, plan, row.state, row.step, row.step_began, needed_schema(row.about)
    )


@lru_cache(64)
def plan_of(text: str) -> RolloutPlan:
    """Raises MsgspecError or RecursionError."""
    return msgspec.json.decode(text, type=RolloutPlan)


def past_looks(connection: Connection, number: int) -> dict[str, list[GateLook]]:
    """What gates saw so far, by gate, the first look first."""
    found: dict[str, list[GateLook]] = {}
    query = select(rollout_looks).where(rollout_looks.c.rollout == number, rollout_looks.c.number > 0)
    for row in connection.execute(query.order_by(rollout_looks.c.number)):
        found.setdefault(row.gate, []).append(msgspec.json.decode(row.body, type=GateLook))
    return found


def keep_looks(connection: Connection, number: int, new: dict[str, GateLook]) -> bool:
    """Store looks, by gate. False, and nothing is stored: another tick looked meanwhile."""
    past = past_looks(connection, number)
    if any(look.number != len(past.get(gate, ())) + 1 for gate, look in new.items()):
        return False
    for gate, look in new.items():
        body = msgspec.json.encode(look).decode()
        connection.execute(insert(rollout_looks).values(rollout=number, gate=gate, number=look.number, at=look.at, body=body))
    return True


def keep_power(connection: Connection, number: int, now: float, told: Sequence[GatePower]) -> None:
    """What was said of the gates before the rollout began: a look before all others."""
    for gate in {one.gate for one in told}:
        body = msgspec.json.encode([one for one in told if one.gate == gate]).decode()
        connection.execute(insert(rollout_looks).values(rollout=number, gate=gate, number=0, at=now, body=body))


def power_told(connection: Connection, number: int, step: int) -> dict[str, GatePower]:
    """What was said of this step (from 1), by gate."""
    query = select(rollout_looks.c.body).where(rollout_looks.c.rollout == number, rollout_looks.c.number == 0)
    told = [one for body in connection.execute(query).scalars() for one in msgspec.json.decode(body, type=list[GatePower])]
    return {one.gate: one for one in told if one.step == step}
