"""A rollout for its page. Of a large fleet its gates are shown as the last tick saw them: no page judges thousands of devices."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from edgeloop_contract.gate_messages import GateStatus
from edgeloop_contract.hub_messages import RolloutStatus
from edgeloop_hub.fleet import rollout_members
from edgeloop_hub.fleet.rollout_members import Cohort
from edgeloop_hub.rollouts import rollout_store, service
from edgeloop_hub.rollouts.policy import Rollout
from edgeloop_hub.storage.fleet_tables import device_states
from edgeloop_hub.storage.schema import rollouts

MAX_JUDGED = 500  # devices of the model, for which a page judges the gates anew


def of(connection: Connection, number: int, rollout: Rollout | None, cohort: Cohort | None) -> tuple[RolloutStatus, bool]:
    """The rollout, and whether its gates are those of the last looks. `rollout`, `cohort`: None where its plan cannot be read.

    Raises UsageError where there is no such rollout.
    """
    if rollout is None or cohort is None:
        return service.status(connection, number), False
    mine = (device_states.c.model == rollout.model, device_states.c.channel == rollout.channel)
    devices = connection.execute(select(func.count()).select_from(device_states).where(*mine)).scalar_one()
    if devices <= MAX_JUDGED:
        return service.status(connection, number), False
    row = connection.execute(select(rollouts.c.reason, rollouts.c.began).where(rollouts.c.id == number)).one()
    plan = rollout.plan
    return RolloutStatus(
        id=number, target=rollout.target, model=rollout.model, channel=rollout.channel, state=rollout.state, step=rollout.step + 1,
        reason=row.reason, began=row.began, step_began=rollout.step_began, steps=[str(step) for step in plan.steps],
        soak_seconds=plan.soak_seconds, on_breach=plan.on_breach, cohort=cohort.size, reported=cohort.running,
        failed=rollout_members.counts(connection, rollout)["failed"], pinned=cohort.pinned, gates=_last_looks(connection, rollout),
    ), True  # fmt: skip


def _last_looks(connection: Connection, rollout: Rollout) -> list[GateStatus]:
    past = rollout_store.past_looks(connection, rollout.id)
    power = rollout_store.power_told(connection, rollout.id, rollout.step + 1)
    gates = []
    for gate in dict.fromkeys([*past, *power]):
        looks, told = past.get(gate, []), power[gate].text if gate in power else ""
        last = looks[-1] if looks else None
        gates.append(
            GateStatus(
                gate=gate, breached=last.breached if last else None, text=last.text if last else "no look yet",
                amount=last.amount if last else 0.0, power=told, looks=looks,
            )
        )  # fmt: skip
    return gates
