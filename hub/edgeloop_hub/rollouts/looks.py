"""Looks at a gate's evidence: when one is due, and how much of the error rate it may spend.

A test that is repeated each minute finds a difference sooner or later where there is none. So a gate looks when its evidence has
doubled, and at the end of a step. Look k may be wrong with probability alpha · 10 / ((k + 9)(k + 10)), and all looks together,
however many there are, with alpha at most. That holds for any test and any dependence between looks (docs/adr/0028).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeloop_contract.gate_messages import GateLook

FIRST = 9  # the larger, the more evenly alpha is spent over the looks
GROWTH = 2.0  # of the evidence, from look to look
GROWTH_AT_END = 1.25  # of the evidence, for another look at the end of a step


def share(number: int) -> float:
    """The share of alpha that look `number` (from 1) spends; over all looks they add up to 1."""
    return (FIRST + 1) / ((number + FIRST) * (number + FIRST + 1))


@dataclass(frozen=True)
class Moment:
    """When a gate is asked. `step_began`: of the step that runs; `ends`: only gates keep the step from ending.

    `may_look`: a tick; who shows a rollout on a page tests nothing, and spends nothing.
    """

    now: float = 0.0
    step_began: float = 0.0
    ends: bool = False
    may_look: bool = True


def is_due(past: Sequence[GateLook], amount: float, moment: Moment) -> bool:
    """Whether to look, with so much evidence now. A gate that was breached, and resumed by a person, looks at once."""
    if amount <= 0 or not moment.may_look:
        return False
    if not past or past[-1].breached:
        return True
    last = past[-1]
    if moment.ends and (last.at < moment.step_began or amount >= GROWTH_AT_END * last.amount):
        return True
    return amount >= GROWTH * last.amount
