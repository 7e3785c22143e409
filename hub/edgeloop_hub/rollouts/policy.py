"""Who gets a new bundle, and when: rules over values, without I/O."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from edgeloop_contract.rollout import Step
from edgeloop_hub.rollouts.gates import Finding, Gates

BUCKETS = 10_000
OPEN = ("running", "paused")


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cohorts that grow; each soaks before the next begins. `on_breach`: leave the cohort, or send it back."""

    steps: Annotated[list[Step], msgspec.Meta(min_length=1, max_length=50)]
    soak_seconds: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)] = 3600.0
    gates: Gates = Gates()
    on_breach: Literal["halt", "return"] = "halt"


def is_in(step: Step, device: str, labels: list[str], salt: str) -> bool:
    """`salt`: the rollout's target, so that it is not the same devices that go first each time."""
    if step.percent:
        place = int(hashlib.sha256(f"{salt}\0{device}".encode()).hexdigest()[:12], 16) % BUCKETS
        return place < step.percent / 100 * BUCKETS
    return device in step.devices or (bool(step.label) and step.label in labels)


@dataclass(frozen=True)
class Rollout:
    """A rollout as it stands. `target_sha256`: what the cohort runs when it has taken it."""

    id: int
    channel: str
    model: str
    target: str
    target_sha256: str
    plan: Plan
    state: str  # running, paused, halted, returned, aborted, done
    step: int
    step_began: float

    def cohort_has(self, device: str, labels: list[str]) -> bool:
        return any(is_in(step, device, labels, self.target) for step in self.plan.steps[: self.step + 1])


def assigned(device: str, labels: list[str], running_sha256: str, released: str, rollout: Rollout | None) -> str:
    """The target for a device. Who has the new bundle keeps it while a rollout is halted or paused; nobody else gets it then."""
    if rollout is None or rollout.state in ("returned", "aborted", "done"):
        return released
    has_it = running_sha256 == rollout.target_sha256
    if has_it or (rollout.state == "running" and rollout.cohort_has(device, labels)):
        return rollout.target
    return released


@dataclass(frozen=True)
class Move:
    """What a tick does to a rollout: wait, advance, finish, or breach; and why."""

    what: str
    why: str


def next_move(rollout: Rollout, now: float, cohort: int, reported: int, failed: int, findings: list[Finding]) -> Move:
    """`cohort`: devices of the steps so far; `reported`: those of them that answered samples with the new bundle since."""
    for found in findings:
        if found.breached:
            return Move("breach", f"{found.gate}: {found.text}")
    plan, last = rollout.plan, rollout.step >= len(rollout.plan.steps) - 1
    if not cohort:
        return Move("wait", "no device is in this cohort")
    trying = cohort - failed
    if trying <= 0 or reported < plan.gates.min_reported * trying:
        said = f"{reported} of {trying} devices have answered samples with the new bundle"
        return Move("wait", said if reported else f"{said} (where none has a source: --gate min_reported=0)")
    untold = [found.gate for found in findings if found.waits]
    if untold:
        return Move("wait", f"{', '.join(untold)}: the devices on the new bundle report no figures yet, those on the old one do")
    left = rollout.step_began + plan.soak_seconds - now
    if left > 0:
        return Move("wait", f"soaking, {left:.0f} s left; {reported} of {cohort} devices run it")
    why = f"{reported} of {cohort} devices run it, {failed} failed, no gate breached"
    return Move("finish" if last else "advance", why)
