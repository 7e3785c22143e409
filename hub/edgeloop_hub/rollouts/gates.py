"""The verdict of each gate: rules over numbers, without I/O.

A gate is breached only where a difference is both larger than tolerated and too large for chance, at a look (`looks`). A gate waits
where the old bundle's devices give figures and too few of the new one's do yet: a missing figure is not good news.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeloop_contract.gate_messages import GateLook
from edgeloop_contract.rollout import GateLimits
from edgeloop_hub.rollouts import looks
from edgeloop_hub.rollouts.device_evidence import ByDevice, DeviceEvidence
from edgeloop_hub.rollouts.looks import Moment
from edgeloop_hub.rollouts.measures import Measured, measured

__all__ = ["ByDevice", "DeviceEvidence", "Finding", "judge"]

Past = Mapping[str, Sequence[GateLook]]  # earlier looks, by gate


@dataclass(frozen=True)
class Finding:
    """One gate's verdict. `breached` None: there are no figures yet; `waits`: the next step waits until there are.

    `look`: the one that was made now, to be kept. `measured`: the figures behind the words.
    """

    gate: str
    breached: bool | None
    text: str
    waits: bool = False
    look: GateLook | None = None
    measured: Measured | None = None


def judge(
    gates: GateLimits, new: ByDevice, old: ByDevice, failed: int, installed: int, past: Past | None = None,
    moment: Moment | None = None, alone: bool = False,
) -> list[Finding]:  # fmt: skip
    """A finding for each gate. `failed`: devices of the cohort that refused the bundle or gave it back.

    `past`: earlier looks, so that all together keep alpha; None: this is the only look there will be. `alone`: no device is left
    that could report of an old bundle.
    """
    every = measured(gates, new, old, failed, installed, np.random.default_rng(0), alone)
    return [_finding(one, gates.alpha, past, moment or Moment(ends=True)) for one in every]


def _finding(one: Measured, alpha: float, past: Past | None, moment: Moment) -> Finding:
    earlier = (past or {}).get(one.gate, ())
    last = earlier[-1] if earlier else None
    if one.test is None or one.waits:
        breached = last.breached if last is not None else None
        return Finding(one.gate, breached, one.text, one.waits, measured=one)
    if past is not None and not looks.is_due(earlier, one.amount, moment):
        text = f"{one.text} (at look {last.number}: {last.text})" if last is not None else f"{one.text} (not looked at yet)"
        return Finding(one.gate, last.breached if last is not None else None, text, measured=one)
    number = len(earlier) + 1
    level = alpha if past is None else alpha * looks.share(number)
    p, how = one.test(level) if one.worse else (None, "no more than tolerated")
    breached = p is not None and p < level
    look = GateLook(number=number, at=moment.now, amount=one.amount, level=level, p=p, breached=breached, text=how)
    return Finding(one.gate, breached, f"{one.text} ({how})", look=look, measured=one)
