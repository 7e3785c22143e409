"""A plan's steps over the fleet as it is: how many devices each has, and what its gates can find."""

from __future__ import annotations

import time

from sqlalchemy import Connection, select

from edgeloop_contract.errors import UsageError
from edgeloop_contract.gate_messages import GatePower
from edgeloop_contract.rollout import RolloutPlan
from edgeloop_hub.rollouts import cohort, evidence, power
from edgeloop_hub.rollouts.policy import Rollout, is_in
from edgeloop_hub.storage.schema import bundles
from edgeloop_hub.updates.registry import needed_schema

ASKED = 300  # devices whose reports tell how the fleet does
REPORTS = 20_000  # of theirs, the newest
DAY = 86400.0


def of_plan(connection: Connection, target: str, plan: RolloutPlan, channel: str = "") -> list[GatePower]:
    """What each gate can find in each step. A step's devices report from its beginning on, for its soak.

    Raises UsageError for a bundle that is not published.
    """
    row = connection.execute(select(bundles).where(bundles.c.target == target)).first()
    if row is None:
        raise UsageError(f"{target} is not published; publish it first")
    rollout = Rollout(
        0, channel or row.channel, row.model, target, row.sha256, plan, "running", len(plan.steps) - 1, 0.0,
        needed_schema(row.about),
    )  # fmt: skip
    found = cohort.members(connection, rollout)
    everybody = [*found.cohort, *found.others]
    sha256s = {device.sha256 for device in everybody if device.sha256} - {row.sha256}
    asked = {device.name for device in everybody[:: max(1, len(everybody) // ASKED)]}
    fleet = power.baseline(evidence.since(connection, asked, sha256s, time.time() - DAY, REPORTS))
    first = [next((i for i, s in enumerate(plan.steps) if is_in(s, d.name, d.labels, target)), None) for d in found.cohort]
    made = []
    for number in range(len(plan.steps)):
        inside = sum(step is not None and step <= number for step in first)
        # After the first step, who is in the cohort has reported from the old bundle too.
        others = len(everybody) - inside if number == 0 else len(everybody)
        made += power.of_step(plan.gates, fleet, number + 1, inside, others, plan.soak_seconds / 3600)
    return made
