"""Decides from figures alone which floors a verified run misses; each sentence names the setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeloop_pipeline.recipe.settings import Target

MIN_LSB, MAX_LSB, POINTS_A_STEP = 3, 8, 8  # ties that runtimes round differently add up over the quantized tensors
NEAR_CHANCE = 0.2  # share of the distance from chance to perfect


@dataclass(frozen=True)
class FloatNetwork:
    """The metric of a stage's float network: on validation data, which chooses the best network, and on the test set."""

    stage: str
    validation: float
    test: float


@dataclass(frozen=True)
class File:
    """The metric of a shipped file on the test set, and its size."""

    name: str
    integer: bool
    accuracy: float
    bytes: int


@dataclass(frozen=True)
class Pair:
    """Two sets of scores that should be equal. `first`: the first layer that differs, in words; '' if unknown."""

    a: str
    b: str
    max_lsb: int
    agreement: float
    first: str = ""


def allowed_lsb(target: Target, points: int) -> int:
    """The largest difference between a runtime and torch, in LSB: the target's, or by the number of quantized tensors."""
    return target.max_lsb if target.max_lsb is not None else min(max(MIN_LSB, 2 + points // POINTS_A_STEP), MAX_LSB)


def best(networks: list[FloatNetwork]) -> FloatNetwork:
    """The best network on validation data; the first of equal ones. One without a metric (NaN) is never the best of several."""
    return max(networks, key=lambda n: (n.validation == n.validation, n.validation))


def failures(
    target: Target, metric: str, networks: list[FloatNetwork], files: list[File], pairs: list[Pair], chance: float, points: int
) -> list[str]:  # fmt: skip
    """A sentence for every missed floor. `chance`: the metric of the best constant answer."""
    found = []
    for file in files:
        found += _of_file(target, metric, networks, file)
        if target.min_accuracy is None and not file.accuracy - chance >= NEAR_CHANCE * (1 - chance):
            found.append(
                f"{file.name}: {metric} {file.accuracy:.2%} is near chance ({chance:.2%}); {_story(networks)}: train longer,"
                " check the data, or set target.min_accuracy if you accept this"
            )
    allowed = allowed_lsb(target, points)
    for pair in pairs:
        if pair.max_lsb > allowed or pair.agreement < target.min_agreement:
            by_depth = "" if target.max_lsb is not None else f", from the {points} tensors of this network; target.max_lsb sets it"
            found.append(
                f"{pair.a} and {pair.b}: up to {pair.max_lsb} LSB apart (max_lsb {allowed}{by_depth}), same answer for"
                f" {pair.agreement:.2%} (min_agreement {target.min_agreement:.2%}){pair.first}"
            )
    return found


def _of_file(target: Target, metric: str, networks: list[FloatNetwork], file: File) -> list[str]:
    found = []
    if target.min_accuracy is not None and not file.accuracy >= target.min_accuracy:
        found.append(f"{file.name}: {metric} {file.accuracy:.2%} on the test set is below min_accuracy {target.min_accuracy:.2%}")
    top, own = best(networks), networks[-1]
    limits: Mapping[str, tuple[float | None, FloatNetwork]] = {
        "max_drop": (target.max_drop, top),
        "max_int8_drop": (target.max_int8_drop if file.integer else None, own),
    }
    for name, (limit, network) in limits.items():
        drop = network.test - file.accuracy
        if limit is not None and not drop <= limit:
            which = "the best float network" if network is top else "its float network"
            found.append(
                f"{file.name}: lost {drop:.2%} against {which} (after {network.stage}, {network.test:.2%}), more than"
                f" {name} {limit:.2%}"
            )
    if file.integer and target.max_int8_bytes is not None and file.bytes > target.max_int8_bytes:
        found.append(f"{file.name}: {file.bytes} bytes, more than max_int8_bytes {target.max_int8_bytes}")
    return found


def _story(networks: list[FloatNetwork]) -> str:
    """Lists the metrics of the float networks in order: this shows which stage damaged the network."""
    return "the float network had " + ", ".join(f"{n.test:.2%} after {n.stage}" for n in networks)
