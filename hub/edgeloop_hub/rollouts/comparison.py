"""Whether new devices differ from old ones by more than chance: tests for any number of devices, in bounded memory and time.

A test gets the level at which it is asked, so that it draws as often as that needs, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from edgeloop_contract.arrays import Array

MAX_DRAWS = 200_000
DRAWS_BY_LEVEL = 10  # times 1/level: p is known well enough where it matters
ENOUGH_BEYOND = 20  # draws beyond the observed one; then p is told without the others (Besag and Clifford 1991)
MIN_FREEDOM = 5  # of Student's t: seven devices in all
MAX_DRAWN = 500  # devices of the smaller side that are drawn one by one; beyond, the limit of the same distribution is as good
MAX_ROWS = 1000  # of a side whose shares are compared by draws
EXACT_ANSWERS = 10_000  # beyond, the normal limit of the hypergeometric distribution


def enough(new: int, old: int, level: float) -> bool:
    """Whether some order of so many devices is rarer than the level: C(new + old, new) ≥ 1/level, in logarithms."""
    ways = math.lgamma(new + old + 1) - math.lgamma(new + 1) - math.lgamma(old + 1)
    return ways + math.log(level) >= -1e-9


def plenty(new: int, old: int, level: float) -> bool:
    """Whether devices are so many that their order tells more than what they report: it need not be the rarest of all."""
    return enough(new, old, level / 10)


def student(new: Array, old: Array) -> float | None:
    """Student's t over devices, one-sided, with their common variance; None where devices are too few for one.

    Where no order of so few devices is rare enough, their spread is what chance is known by.
    """
    from scipy.special import stdtr

    free = len(new) + len(old) - 2
    if free < MIN_FREEDOM:
        return None
    squares = ((new - new.mean()) ** 2).sum() + ((old - old.mean()) ** 2).sum()
    error = math.sqrt(squares / free * (1 / len(new) + 1 / len(old)))
    return float(stdtr(free, (old.mean() - new.mean()) / max(error, 1e-12)))


def larger(
    new: Sequence[float], old: Sequence[float], level: float, rng: np.random.Generator, beyond: float, logarithms: bool = False
) -> tuple[float, str]:
    """One-sided permutation test of the means over devices: are the new ones larger? Returns p, and how it was found.

    Where devices are too few for one, by Student's t (of `logarithms`, where spreads are shares of the mean); where they are too
    few for that too, each of the new ones has to exceed `beyond`.
    """
    if not enough(len(new), len(old), level):
        sides = [np.asarray(side, float) for side in (new, old)]
        by_spread = student(*(np.log1p(side) if logarithms else side for side in sides))
        if by_spread is not None:
            return by_spread, f"p = {by_spread:.2g} by the spread of devices, as they are few"
        all_beyond = min(new) > beyond
        return (0.0 if all_beyond else 1.0), (
            f"{len(new)} and {len(old)} devices are few: {'all' if all_beyond else 'not all'} beyond the worst of the old ones"
        )
    p = permuted(np.asarray(new, float), np.asarray(old, float), level, rng)
    return p, f"p = {p:.2g} over devices"


def permuted(new: Array, old: Array, level: float, rng: np.random.Generator) -> float:
    """By drawing the smaller side anew; with many on both sides by the limit of the same distribution."""
    pooled, few = np.concatenate([new, old]), min(len(new), len(old))
    if few > MAX_DRAWN:
        return limit_of_draws(new.mean(), pooled, len(new))
    sign, seen = (1.0, new) if len(new) <= len(old) else (-1.0, old)
    observed = sign * seen.mean()
    least = observed - 1e-12 * (1 + abs(observed))
    return drawn(lambda: bool(sign * pooled[rng.choice(len(pooled), few, replace=False, shuffle=False)].mean() >= least), level)


def limit_of_draws(mean: float, pooled: Array, count: int) -> float:
    """p of a mean of `count` of these values: the normal limit, and the skewness that is left of them (Cornish and Fisher)."""
    share, spread = count / len(pooled), float(pooled.std(ddof=1))
    if spread <= 0:
        return 1.0
    z = (mean - pooled.mean()) / (spread * math.sqrt((1 - share) / count))
    skew = float((((pooled - pooled.mean()) / spread) ** 3).mean()) * (1 - 2 * share) / math.sqrt(count * (1 - share))
    return math.erfc((z - skew * (z * z - 1) / 6) / math.sqrt(2)) / 2


def drawn(is_beyond: Callable[[], bool], level: float) -> float:
    """p by draws under the hypothesis of no difference, as many as the level needs."""
    most = min(MAX_DRAWS, math.ceil(DRAWS_BY_LEVEL / level))
    beyond = 0
    for number in range(1, most + 1):
        beyond += is_beyond()
        if beyond >= ENOUGH_BEYOND:
            return beyond / number
    return (1 + beyond) / (1 + most)


def shifted(new: Array, old: Array, level: float, rng: np.random.Generator) -> float:
    """Permutation test over devices of the total variation between pooled shares. Rows are devices, columns labels.

    Of more than MAX_ROWS devices on a side that many are drawn: as many tell whether shares moved.
    """
    new, old = (side[rng.choice(len(side), min(len(side), MAX_ROWS), replace=False)] for side in (new, old))
    table = np.concatenate([new, old])
    total, few = table.sum(axis=0), min(len(new), len(old))
    observed = variation(new.sum(axis=0), old.sum(axis=0))

    def is_beyond() -> bool:
        mine = table[rng.choice(len(table), few, replace=False, shuffle=False)].sum(axis=0)
        return variation(mine, total - mine) >= observed - 1e-12

    return drawn(is_beyond, level)


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
