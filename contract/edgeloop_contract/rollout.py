"""The plan of a rollout: its steps and gates, as people write them and as the hub carries them out."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from edgeloop_contract.errors import UsageError

__all__ = ["Step", "parse_steps"]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cohort: devices by name, by label, or a share of all by a stable hash. The label `group:NAME` is a group of the hub."""

    devices: Annotated[list[Annotated[str, msgspec.Meta(max_length=63)]], msgspec.Meta(max_length=10_000)] = []
    label: Annotated[str, msgspec.Meta(max_length=63)] = ""
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0

    def __str__(self) -> str:
        label = self.label.replace(":", " ") if ":" in self.label else f"label {self.label}"
        return ", ".join(self.devices) or (label if self.label else f"{self.percent:g} %")


RolloutState = Literal["running", "paused", "halted", "returned", "aborted", "done"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class GateLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a rollout tolerates. `alpha`: how often chance alone may breach one gate, over the whole rollout and all looks at it.

    Defaults are not written, so that an earlier hub reads a plan that does not use its news.
    """

    alpha: Annotated[float, msgspec.Meta(ge=0.001, le=0.5)] = 0.01
    max_install_failures: Share = 0.1  # share of the cohort's devices
    max_crashes_per_hour: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.1  # more than the others have
    max_latency_ratio: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.5  # p95 against the others'
    max_confidence_drop: Share = 0.05
    max_label_shift: Share = 0.15  # total variation between the shares of labels
    max_drift: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0  # drift score more than the others'; 0: not looked at
    max_accuracy_drop: Share = 0.03  # where labels exist
    min_reported: Share = 0.8  # share of the cohort that must have answered with the new bundle before the next step
    max_wait_hours: Annotated[float, msgspec.Meta(gt=0, le=366 * 24)] = 336.0  # for figures, after a step's soak; then a halt


class RolloutPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Cohorts that grow; each soaks before the next begins. `on_breach`: leave the cohort as it is, or send it back.

    `despite_windows`: why devices are offered it outside of their maintenance windows too; empty: they are not. Defaults are not
    written, so that an earlier hub reads a plan that does not use its news.
    """

    steps: Annotated[list[Step], msgspec.Meta(min_length=1, max_length=50)]
    soak_seconds: Annotated[float, msgspec.Meta(ge=0, le=366 * 86400)] = 3600.0
    gates: GateLimits = GateLimits()
    on_breach: Literal["halt", "return"] = "halt"
    despite_windows: Annotated[str, msgspec.Meta(max_length=300)] = ""


def parse_steps(text: str) -> list[Step]:
    """`pi-1+pi-2, label:pilot, group:line-3, 25%, 100%`. Raises UsageError."""
    steps = []
    for word in (w.strip() for w in text.split(",")):
        if re.fullmatch(r"\d{1,3}(\.\d+)?%", word) and 0 < float(word[:-1]) <= 100:
            steps.append(Step(percent=float(word[:-1])))
        elif re.fullmatch(r"label:[a-z0-9][a-z0-9-]*", word):
            steps.append(Step(label=word[6:]))
        elif re.fullmatch(r"group:[a-z0-9][a-z0-9-]{0,56}", word):
            steps.append(Step(label=word))
        elif re.fullmatch(r"[a-z0-9][a-z0-9-]*(\+[a-z0-9][a-z0-9-]*)*", word):
            steps.append(Step(devices=word.split("+")))
        else:
            raise UsageError(
                f"--steps: {word!r} is no cohort; write devices (pi-1+pi-2), label:pilot, group:line-3,"
                " or a share (25%), with commas between"
            )
    shares = [s.percent for s in steps if s.percent]
    if shares != sorted(shares):
        raise UsageError("--steps: shares must grow")
    return steps
