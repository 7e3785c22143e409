"""Who gets a new bundle, and when: rules over values, without I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from edgeloop_contract.rollout import RolloutPlan, RolloutState, Step
from edgeloop_hub.rollouts.gates import Finding

BUCKETS = 10_000
OPEN: tuple[RolloutState, ...] = ("running", "paused", "halted")  # a rollout that is not over


def is_in(step: Step, device: str, labels: Sequence[str], salt: str) -> bool:
    """Whether a device is in a step's cohort. `salt`: the rollout's target, so that other devices go first each time."""
    if step.percent:
        return _bucket(device, salt) < step.percent / 100 * BUCKETS
    return device in step.devices or (bool(step.label) and step.label in labels)


@dataclass(frozen=True)
class Rollout:
    """A rollout as it stands. `target_sha256`: of the new bundle."""

    id: int
    channel: str
    model: str
    target: str
    target_sha256: str
    plan: RolloutPlan
    state: RolloutState
    step: int
    step_began: float
    schema: int = 1  # the lowest reader that runs the bundle

    def cohort_has(self, device: str, labels: Sequence[str]) -> bool:
        """As `is_in` of any step so far. A device has one place in all shares: it is in one of them if it is in the largest."""
        share, names, wanted = self._reached
        by_share = share >= BUCKETS or (share > 0 and _bucket(device, self.target) < share)
        return by_share or device in names or not wanted.isdisjoint(labels)

    @cached_property
    def _reached(self) -> tuple[float, frozenset[str], frozenset[str]]:
        """Of the steps so far: the largest share, in buckets; devices and labels that are named."""
        steps = self.plan.steps[: self.step + 1]
        share = max((step.percent / 100 * BUCKETS for step in steps if step.percent), default=0.0)
        named = [step for step in steps if not step.percent]
        return share, frozenset(n for s in named for n in s.devices), frozenset(s.label for s in named if s.label)


def _bucket(device: str, salt: str) -> int:
    return int(hashlib.sha256(f"{salt}\0{device}".encode()).hexdigest()[:12], 16) % BUCKETS


def assigned(device: str, labels: Sequence[str], running_sha256: str, released: str, rollout: Rollout | None) -> str:
    """The target for a device. Who has the new bundle keeps it while the rollout is halted or paused; no other gets it."""
    if rollout is None or rollout.state in ("returned", "aborted", "done"):
        return released
    has_it = running_sha256 == rollout.target_sha256
    if has_it or (rollout.state == "running" and rollout.cohort_has(device, labels)):
        return rollout.target
    return released


@dataclass(frozen=True)
class Assessment:
    """A rollout's gates, and devices: of the steps so far, of those that answered samples with the new bundle, that failed.

    `need_upgrade`: devices of the steps so far whose agent cannot read the bundle; `pinned`: those that are pinned to another
    one. They are offered nothing, and not counted.
    """

    findings: list[Finding]
    cohort: int
    reported: int
    failed: int
    need_upgrade: int = 0
    pinned: int = 0


def lacks_answers(plan: RolloutPlan, cohort: int, reported: int, failed: int) -> str:
    """Why the devices of the steps so far say too little for the step to end; "" where enough of them answer."""
    if not cohort:
        return "no device is in this cohort"
    trying = cohort - failed
    if trying > 0 and reported >= plan.gates.min_reported * trying:
        return ""
    progress = f"{reported} of {trying} devices have answered samples with the new bundle"
    return progress if reported else f"{progress} (where none has a source: --gate min_reported=0)"


def seconds_left(rollout: Rollout, now: float) -> float:
    """Of the step's soak."""
    return rollout.step_began + rollout.plan.soak_seconds - now


@dataclass(frozen=True)
class Move:
    """What a tick does to a rollout, and why."""

    action: Literal["wait", "advance", "finish", "halt", "breach"]
    reason: str


def next_move(rollout: Rollout, now: float, assessment: Assessment) -> Move:
    """The first reason to stop or to wait decides; without one the rollout advances."""
    for finding in assessment.findings:
        if finding.breached:
            return Move("breach", f"{finding.gate}: {finding.text}")
    plan, last = rollout.plan, rollout.step >= len(rollout.plan.steps) - 1
    cohort, reported, failed = assessment.cohort, assessment.reported, assessment.failed
    left = seconds_left(rollout, now)
    lacking = lacks_answers(plan, cohort, reported, failed)
    lacking = lacking or "; ".join(f"{finding.gate}: {finding.text}" for finding in assessment.findings if finding.waits)
    if lacking and -left > plan.gates.max_wait_hours * 3600:
        hours = f"{plan.gates.max_wait_hours:g} h after its soak"
        return Move("halt", f"{hours} the step still lacks evidence: {lacking} (--gate max_wait_hours=HOURS waits longer)")
    if lacking:
        return Move("wait", lacking)
    if left > 0:
        return Move("wait", f"soaking, {left:.0f} s left; {reported} of {cohort} devices run it")
    reason = f"{reported} of {cohort} devices run it, {failed} failed, no gate breached"
    return Move("finish" if last else "advance", reason)
