"""What is trained for the split: a cascade, early answers, bottlenecks. By `edgeloop run`, figures of the test set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from harness import Row, at_least, at_most, edgeloop

WIDTHS = os.environ.get("WIDTHS", "[24, 44]")  # of fashion's student
CASCADES = {
    "spoken_digits": (
        "distill.student=network.py:ds_cnn", "distill.student_args={width: 32}", "distill.epochs=40", "distill.batch=64",
        "distill.learning_rate=0.01", "distill.optimizer=adamw", "target.min_accuracy=0.5", "target.max_drop=0.5",
    ),
    "fashion": (
        "train.epochs=8", "distill.epochs=12", f"distill.student_args={{widths: {WIDTHS}, blocks: 1, stem_stride: 2}}",
        "target.min_accuracy=0.5", "target.max_drop=0.5",
    ),
}  # fmt: skip
LEARNED = ("cascade.max_share=0.15", "split.exits=0.01", "split.bottleneck=0.25")


def cascade(quick: bool) -> Iterator[Row]:
    """A small student that asks its teacher when it is not sure, and one that answers early: what comes out on the test set.

    fashion is trained for fewer epochs than its recipe says, so that this takes minutes. $CASCADES: which of them.
    """
    for project in os.environ.get("CASCADES", "spoken_digits" if quick else "spoken_digits fashion").split():
        stages = _stages(project, *CASCADES[project], *LEARNED)
        test = {name: 100 * value for name, value in stages["cascade"]["test"].items()}
        yield Row(f"{project}: small alone / large alone", test["small"], "%", test["large"])
        yield at_least(f"{project}: cascade", test["accuracy"], "%", round(test["large"] - 0.2, 3), test["large"])
        yield at_most("  share sent", test["share"], "%", 15)
        for cut, seen in stages["split"]["early"].items():
            on, accuracy, whole = (100 * seen[k] for k in ("share", "accuracy", "whole"))
            yield Row(f"{project}: early answers at {cut}, accuracy where {on:.1f} % go on", accuracy, "%", whole)
        yield from _narrowed(project, stages["split"])


def bottlenecks(quick: bool) -> Iterator[Row]:
    """photos, at an eighth and at half of each boundary's channels."""
    for share in () if quick else (0.125, 0.5):
        yield from _narrowed("photos", _stages("photos", f"split.bottleneck={share}", "split.bottleneck_steps=20")["split"])


def _narrowed(project: str, split: dict[str, Any]) -> Iterator[Row]:
    """The share of answers that stay, of validation samples; ones that are left out of the bundle too."""
    for name, tried in split["narrowed"].items():
        said = f"{project}: {name}, {tried['channels']} of {tried['of']} channels, {tried['bytes']:.0f} bytes: same answers"
        yield Row(said, 100 * tried["agreement"], "%")


def _stages(project: str, *changes: str) -> dict[str, Any]:
    told: Any = edgeloop("run", project, "--runs", "runs", *(word for change in changes for word in ("--set", change)))
    return {stage["name"]: stage["metrics"] for stage in told["stages"]}
