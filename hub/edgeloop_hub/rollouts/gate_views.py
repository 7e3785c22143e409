"""A rollout's gates as pages, commands and the API show them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from edgeloop_contract.gate_messages import GateLook, GateStatus
from edgeloop_hub.rollouts import looks, rollout_store
from edgeloop_hub.rollouts.gates import Finding
from edgeloop_hub.rollouts.measures import Measured


def of(connection: Connection, rollout: int, step: int, findings: Sequence[Finding]) -> list[GateStatus]:
    """Each gate with both sides, its evidence, its looks so far, and what was said of its power in this step (from 1)."""
    past, power = rollout_store.past_looks(connection, rollout), rollout_store.power_told(connection, rollout, step)
    return [
        _view(finding, past.get(finding.gate, []), power[finding.gate].text if finding.gate in power else "")
        for finding in findings
    ]


def _view(finding: Finding, past: list[GateLook], power: str) -> GateStatus:
    one = finding.measured or Measured(finding.gate, finding.text)
    return GateStatus(
        gate=finding.gate, breached=finding.breached, text=finding.text, waits=finding.waits,
        new=one.new, old=one.old, limit=one.limit, devices=one.devices, needed=one.needed, amount=one.amount, unit=one.unit,
        next_look=looks.GROWTH * past[-1].amount if past else 0.0, power=power, looks=past,
    )  # fmt: skip
