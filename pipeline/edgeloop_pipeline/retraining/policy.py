"""Whether to retrain: a rule over values, without I/O."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """When to retrain. `min_labels`: so many new ones are reason enough; while a device drifts, fewer are."""

    min_labels: int = 50
    min_labels_with_drift: int = 20
    max_age_days: float = 0.0  # 0: age alone is no reason
    wait_hours: float = 0.0  # after a refused attempt, unless there are `min_labels` newer labels


@dataclass(frozen=True)
class Signals:
    """What is known. `new_labels`: those that neither the champion nor a refused attempt has seen. `drifting`: devices."""

    labels: int
    new_labels: int
    drifting: tuple[str, ...]
    age_days: float
    hours_since_refusal: float | None = None


@dataclass(frozen=True)
class Decision:
    """Whether to retrain, and the reason."""

    retrain: bool
    reason: str


def decide(policy: Policy, signals: Signals) -> Decision:
    """The first reason that holds, or why none does."""
    new, drifting = signals.new_labels, ", ".join(signals.drifting)
    if new >= policy.min_labels:
        return Decision(True, f"{new} new labels (min_labels {policy.min_labels})")
    waited = signals.hours_since_refusal
    if waited is not None and waited < policy.wait_hours:
        return Decision(False, f"the last attempt was {waited:.1f} h ago (wait_hours {policy.wait_hours:g})")
    if drifting and new >= policy.min_labels_with_drift:
        return Decision(True, f"drift on {drifting}, and {new} new labels")
    if policy.max_age_days and signals.age_days > policy.max_age_days and new:
        return Decision(True, f"the champion is {signals.age_days:.1f} days old (max_age_days {policy.max_age_days:g})")
    prefix = f"drift on {drifting}, but only " if drifting else ""
    return Decision(False, f"{prefix}{new} new labels; {policy.min_labels} are needed")
