"""Decides from measured figures how many channels each layer keeps; no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import combinations

from edgeloop_pipeline.results.compression import Attempt, BudgetLimits

UNITS = {"latency_us": "µs", "bytes": "bytes of int8 file", "ram_bytes": "bytes of activations", "energy_uj": "µJ per inference"}
SLACK = 0.9  # if the best attempt uses less of a budget, a larger attempt follows
FLAT = 0.05  # costs that differ by less are equal
STEP = 0.8  # an aim that is lower by this factor should have lowered the cost
GOAL = 0.96  # share of the budget that an attempt aims at, once the cost of an aim is known


def excess(attempt: Attempt, limits: BudgetLimits) -> dict[str, float]:
    """Ceiling → the share of it that the attempt uses; above 1 it is missed."""
    return {name: getattr(attempt, name) / limit for name in UNITS if (limit := getattr(limits, name)) is not None}


def used(attempt: Attempt, limits: BudgetLimits) -> float:
    return max(excess(attempt, limits).values(), default=0.0)


def best_of(attempts: list[Attempt], limits: BudgetLimits) -> Attempt:
    """The most accurate attempt that fits; if none fits, the most accurate of those that miss by least."""
    fitting = [a for a in attempts if used(a, limits) <= 1]
    least = min(used(a, limits) for a in attempts)
    return max(fitting or [a for a in attempts if used(a, limits) <= least * (1 + FLAT)], key=lambda a: a.accuracy)


def flat(attempts: list[Attempt], limits: BudgetLimits) -> bool:
    """Whether narrowing no longer lowers the cost: the rest is calls and the file's structure, not layers."""
    missing = sorted((a for a in attempts if used(a, limits) > 1), key=lambda a: a.aim)
    return any(
        low.aim <= STEP * high.aim and used(low, limits) > (1 - FLAT) * used(high, limits)
        for low, high in combinations(missing, 2)
    )  # fmt: skip


def verdict(best: Attempt, limits: BudgetLimits, no_cheaper: bool = False) -> list[str]:
    """Sentences on each missed limit: by how much, and what would be needed; [] if all hold. `no_cheaper`: result of `flat`."""
    said = []
    remedy = (
        "narrower layers do not lower the cost: raise it, or remove layers" if no_cheaper
        else "nothing smaller was found; raise it, or train a narrower network"
    )  # fmt: skip
    for name, share in excess(best, limits).items():
        if share > 1:
            value, limit = getattr(best, name), getattr(limits, name)
            said.append(f"{value:,.0f} {UNITS[name]}, {share - 1:.0%} above {limit:,.0f}: {remedy}")
    if best.accuracy < limits.accuracy:
        ceilings = ", ".join(UNITS[n] for n in excess(best, limits))
        said.append(
            f"validation accuracy {best.accuracy:.2%}, below {limits.accuracy:.2%}: allow more {ceilings}, or train longer behind"
            " this stage"
        )
    return said


def straight_line(one: tuple[float, float], other: tuple[float, float]) -> Callable[[float], float]:
    """The line through two points (x, y) that stays above 0: below the lower point at least in proportion to it (a steep line
    would go below 0 there); through the origin and the first point if y falls as x grows, or if x is equal."""
    (x1, y1), (x2, y2) = one, other
    slope = (y1 - y2) / (x1 - x2) if x1 != x2 else 0.0
    if slope <= 0:
        return lambda x: y1 / x1 * x
    lower, least = min(one, other)
    return lambda x: max(y1 + slope * (x - x1), least / lower * min(x, lower))


def next_aim(attempts: list[Attempt], limits: BudgetLimits) -> float | None:
    """The next attempt's aim, as a share of the budgets; None: no further attempt.

    The first attempt aims at the budgets; later ones where the nearest two attempts predict that the budgets just hold.
    """
    if not attempts:
        return 1.0
    shares = {a.aim: used(a, limits) for a in attempts}
    if any(SLACK <= share <= 1 for share in shares.values()) or flat(attempts, limits):
        return None
    nearest = sorted(shares, key=lambda aim: abs(math.log(shares[aim])))[:2]
    # The two nearest aims show how cost depends on the aim (as a power of it); with one aim, cost is taken as proportional.
    power = 1.0
    if len(nearest) == 2:
        power = math.log(shares[nearest[0]] / shares[nearest[1]]) / math.log(nearest[0] / nearest[1])
    aim = nearest[0] * (GOAL / shares[nearest[0]]) ** (1 / min(4.0, max(0.2, power)))
    low = max((a for a, share in shares.items() if share <= 1), default=0.0)
    high = min((a for a, share in shares.items() if share > 1), default=math.inf)
    if not low < aim < high:
        aim = (low + high) / 2 if high < math.inf else 2 * low
    return None if any(abs(aim - a) < 0.005 * a for a in shares) else aim


def narrow(
    layers: list[str], steps: tuple[float, ...], harm: Mapping[tuple[str, float], float],
    cost: Callable[[dict[str, float]], float], aim: float,
) -> dict[str, float]:  # fmt: skip
    """The share of channels for each layer such that `cost` is at most `aim`, with the least harm: greedy, step by step.

    `steps`: shares from large to small, the first being 1. `harm`: of one layer alone at one share. Each round takes
    the step with the least added harm per saving (Yang et al. 2018).
    """
    widths = dict.fromkeys(layers, steps[0])
    now = cost(widths)
    while now > aim:
        choices = []
        for layer in layers:
            at = steps.index(widths[layer])
            # A step that rounding cancels saves nothing: try the next one.
            for following in steps[at + 1 :]:
                saved = now - cost({**widths, layer: following})
                if saved > 0:
                    added = harm[layer, following] - (harm[layer, widths[layer]] if at else 0.0)
                    choices.append((max(added, 1e-9) / saved, layer, following))
                    break
        if not choices:
            break
        _, layer, share = min(choices)
        widths[layer] = share
        now = cost(widths)
    return widths
