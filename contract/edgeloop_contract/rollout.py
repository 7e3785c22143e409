"""The steps of a rollout, as people write them and as the hub carries them out."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from edgeloop_contract.errors import UsageError

__all__ = ["Step", "parse_steps"]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A cohort: devices by name, by label, or a share of all by a stable hash."""

    devices: Annotated[list[Annotated[str, msgspec.Meta(max_length=63)]], msgspec.Meta(max_length=10_000)] = []
    label: Annotated[str, msgspec.Meta(max_length=63)] = ""
    percent: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0

    def __str__(self) -> str:
        return ", ".join(self.devices) or (f"label {self.label}" if self.label else f"{self.percent:g} %")


def parse_steps(text: str) -> list[Step]:
    """`pi-1+pi-2, label:pilot, 25%, 100%`. Raises UsageError."""
    steps = []
    for word in (w.strip() for w in text.split(",")):
        if re.fullmatch(r"\d{1,3}(\.\d+)?%", word) and 0 < float(word[:-1]) <= 100:
            steps.append(Step(percent=float(word[:-1])))
        elif re.fullmatch(r"label:[a-z0-9][a-z0-9-]*", word):
            steps.append(Step(label=word[6:]))
        elif re.fullmatch(r"[a-z0-9][a-z0-9-]*(\+[a-z0-9][a-z0-9-]*)*", word):
            steps.append(Step(devices=word.split("+")))
        else:
            raise UsageError(
                f"--steps: {word!r} is no cohort; write devices (pi-1+pi-2), label:pilot, or a share (25%), with commas between"
            )
    shares = [s.percent for s in steps if s.percent]
    if shares != sorted(shares):
        raise UsageError("--steps: shares must grow")
    return steps
