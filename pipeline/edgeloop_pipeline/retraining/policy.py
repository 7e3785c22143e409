"""Whether to retrain: a rule over values, without I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """`min_labels`: new ones that are reason enough; with drift fewer are."""

    min_labels: int = 50
    min_labels_with_drift: int = 20
    max_age_days: float = 0.0  # 0: age alone is no reason
    wait_hours: float = 0.0  # after a try that was refused, unless there are `min_labels` newer labels


@dataclass(frozen=True)
class Signals:
    """What is known. `new_labels`: that neither the champion nor a refused try has seen."""

    labels: int
    new_labels: int
    drifting: tuple[str, ...]
    age_days: float
    hours_since_try: float | None = None


@dataclass(frozen=True)
class Decision:
    go: bool
    why: str


def decide(policy: Policy, now: Signals) -> Decision:
    """The first reason that holds, or why none does."""
    if now.new_labels >= policy.min_labels:
        return Decision(True, f"{now.new_labels} new labels (min_labels {policy.min_labels})")
    waits = now.hours_since_try is not None and now.hours_since_try < policy.wait_hours
    if waits:
        return Decision(False, f"the last try was {now.hours_since_try:.1f} h ago (wait_hours {policy.wait_hours:g})")
    if now.drifting and now.new_labels >= policy.min_labels_with_drift:
        return Decision(True, f"drift on {', '.join(now.drifting)}, and {now.new_labels} new labels")
    if policy.max_age_days and now.age_days > policy.max_age_days and now.new_labels:
        return Decision(True, f"the champion is {now.age_days:.1f} days old (max_age_days {policy.max_age_days:g})")
    drift = f"drift on {', '.join(now.drifting)}, but only " if now.drifting else ""
    return Decision(False, f"{drift}{now.new_labels} new labels of {policy.min_labels} wanted")
