"""Whether new devices differ from old ones by more than chance: tests for any number of devices, in bounded memory and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeloop_contract.arrays import Array

PERMUTATIONS = 2000
MAX_DRAWN = 1000  # devices of the smaller side that are drawn one by one; beyond, the normal limit is as good
EXACT_ANSWERS = 10_000  # beyond, the normal limit of the hypergeometric distribution


def enough(new: int, old: int, alpha: float) -> bool:
    """Whether some order of so many devices is rarer than alpha: C(new + old, new) ≥ 1/alpha, in logarithms."""
    ways = math.lgamma(new + old + 1) - math.lgamma(new + 1) - math.lgamma(old + 1)
    return ways + math.log(alpha) >= -1e-9


def larger(new: Sequence[float], old: Sequence[float], alpha: float, rng: np.random.Generator) -> tuple[float, str]:
    """One-sided permutation test of the means over devices: are the new ones larger? Returns p, and how it was found."""
    if not enough(len(new), len(old), alpha):
        # No order of so few devices is rarer than alpha: all of the new ones beyond all of the old ones has to do.
        beyond = min(new) > max(old)
        return (0.0 if beyond else 1.0), f"{len(new)} and {len(old)} devices: {'all' if beyond else 'not all'} beyond the old ones"
    p = permuted(np.asarray(new, float), np.asarray(old, float), rng)
    return p, f"p = {p:.2g} over devices"


def permuted(new: Array, old: Array, rng: np.random.Generator) -> float:
    """By drawing the smaller side anew; with many on both sides by the normal limit of the same distribution."""
    pooled, few = np.concatenate([new, old]), min(len(new), len(old))
    if few > MAX_DRAWN:
        spread = pooled.std(ddof=1) * math.sqrt((1 - len(new) / len(pooled)) / len(new))
        return math.erfc((new.mean() - pooled.mean()) / max(spread, 1e-300) / math.sqrt(2)) / 2
    sign, seen = (1.0, new) if len(new) <= len(old) else (-1.0, old)
    observed = sign * seen.mean()
    beyond = sum(sign * pooled[drawn].mean() >= observed - 1e-12 * (1 + abs(observed)) for drawn in draws(len(pooled), few, rng))
    return float((1 + beyond) / (1 + PERMUTATIONS))


def draws(size: int, few: int, rng: np.random.Generator) -> Any:
    """PERMUTATIONS times `few` of `size` numbers, without repetition, one draw at a time."""
    for _ in range(PERMUTATIONS):
        yield rng.choice(size, few, replace=False, shuffle=False)


def shifted(new: Array, old: Array, rng: np.random.Generator) -> float:
    """Permutation test over devices of the total variation between pooled shares. Rows are devices, columns labels.

    Of more than MAX_DRAWN devices on a side that many are drawn: as many tell whether shares moved.
    """
    new, old = (side[rng.choice(len(side), min(len(side), MAX_DRAWN), replace=False)] for side in (new, old))
    table = np.concatenate([new, old])
    total, few = table.sum(axis=0), min(len(new), len(old))
    observed, beyond = variation(new.sum(axis=0), old.sum(axis=0)), 0
    for drawn in draws(len(table), few, rng):
        mine = table[drawn].sum(axis=0)
        beyond += variation(mine, total - mine) >= observed - 1e-12
    return float((1 + beyond) / (1 + PERMUTATIONS))


def variation(mine: Array, others: Array) -> float:
    """Total variation distance of two rows of counts; 1 where one of them is empty."""
    if mine.sum() <= 0 or others.sum() <= 0:
        return 1.0
    return float(np.abs(mine / mine.sum() - others / others.sum()).sum() / 2)


def more_events(count: float, hours: float, before: float, others: float) -> float:
    """Two Poisson rates: given how many events there were in all, how many of them are new is binomial (Przyborowski and Wilenski).

    The incomplete beta function takes any number in the same time.
    """
    from scipy.special import betainc

    return float(betainc(count, before + 1, hours / (hours + others))) if count else 1.0


def fewer_right(right: int, labelled: int, before: int, others: int) -> float:
    """Fisher's exact test, one-sided; for many answers the normal limit of two shares."""
    if max(labelled, others) <= EXACT_ANSWERS:
        from scipy.stats import fisher_exact

        return float(fisher_exact([[right, labelled - right], [before, others - before]], alternative="less").pvalue)
    share = (right + before) / (labelled + others)
    spread = math.sqrt(max(share * (1 - share) * (1 / labelled + 1 / others), 1e-300))
    return math.erfc((before / others - right / labelled) / spread / math.sqrt(2)) / 2


def clipped(values: Sequence[float], most: float) -> list[float]:
    """Values of at most `most`, so that the claim of one device does not outweigh a fleet."""
    return [min(value, most) for value in values]
