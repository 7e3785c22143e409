"""What the hub says of a rollout's gates. Times are seconds since 1970."""

from __future__ import annotations

import msgspec

__all__ = ["GateLook", "GatePower", "GateStatus"]


class GateLook(msgspec.Struct, frozen=True):
    """One look at a gate's evidence. `amount`: of evidence then, in the gate's unit; `level`: the p below which it is breached;
    `p`: None where the difference was no larger than tolerated, and so was not tested."""

    number: int
    at: float
    amount: float
    level: float
    p: float | None
    breached: bool
    text: str = ""


class GateStatus(msgspec.Struct, frozen=True):
    """A gate as it stands. `breached`: at its last look; None where there is nothing to judge by yet.

    `new`, `old`, `limit`: what was measured on each side, and what is tolerated, in words. `devices`: on the new bundle that gave
    figures, of those `needed` before the step ends. `amount`: of evidence on the new bundle, in `unit`; the next look comes at
    `next_look`, or at the end of the step. `power`: what the gate can find in this step, said before the rollout began.
    """

    gate: str
    breached: bool | None
    text: str
    waits: bool = False
    new: str = ""
    old: str = ""
    limit: str = ""
    devices: int = 0
    needed: int = 0
    amount: float = 0.0
    unit: str = ""
    next_look: float = 0.0
    power: str = ""
    looks: list[GateLook] = []


class GatePower(msgspec.Struct, frozen=True):
    """How often a gate finds a bundle that is so much worse, in a step (from 1). `found`: 0 to 1; None: it can find nothing."""

    step: int
    gate: str
    found: float | None
    text: str
