"""Which floors a verified run misses: decided from figures alone, in words that name the setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeloop_pipeline.recipe.settings import Target

MIN_LSB, MAX_LSB, POINTS_A_STEP = 3, 8, 8  # ties that are rounded differently add up with every quantized tensor
NEAR_CHANCE = 0.2  # of the way from chance to perfect


@dataclass(frozen=True)
class FloatNetwork:
    """What a stage's network does: on validation data, by which the best is chosen, and on the test set."""

    stage: str
    validation: float
    test: float


@dataclass(frozen=True)
class File:
    """A shipped file on the test set."""

    name: str
    integer: bool
    accuracy: float
    bytes: int


@dataclass(frozen=True)
class Pair:
    """Two sets of scores that should be one. `first`: the first layer that differs, in words; '' where none is known."""

    a: str
    b: str
    max_lsb: int
    agreement: float
    first: str = ""


def allowed_lsb(target: Target, points: int) -> int:
    """How far a runtime may be from torch: as the target says, else by the number of quantized tensors."""
    return target.max_lsb if target.max_lsb is not None else min(max(MIN_LSB, 2 + points // POINTS_A_STEP), MAX_LSB)


def best(networks: list[FloatNetwork]) -> FloatNetwork:
    """By validation; of equal ones the first. A network without a metric there (NaN) is never the best of several."""
    return max(networks, key=lambda n: (n.validation == n.validation, n.validation))


def failures(
    target: Target, metric: str, networks: list[FloatNetwork], files: list[File], pairs: list[Pair], chance: float, points: int
) -> list[str]:  # fmt: skip
    """Every floor that is missed. `chance`: what an answer without looking at the sample reaches."""
    found = []
    for file in files:
        found += _of_file(target, metric, networks, file)
        if target.min_accuracy is None and not file.accuracy - chance >= NEAR_CHANCE * (1 - chance):
            found.append(
                f"{file.name}: {metric} {file.accuracy:.2%} is near chance ({chance:.2%}); {_story(networks)}: train longer,"
                " look at the data, or set target.min_accuracy if this is what you want"
            )
    allowed = allowed_lsb(target, points)
    for pair in pairs:
        if pair.max_lsb > allowed or pair.agreement < target.min_agreement:
            by_depth = "" if target.max_lsb is not None else f", by the {points} tensors of this network; target.max_lsb sets it"
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
    """The float networks in order, so that the stage that ruined one is seen."""
    return "the float network had " + ", ".join(f"{n.test:.2%} after {n.stage}" for n in networks)
