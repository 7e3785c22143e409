"""Champion and challenger by a measure that is no mean over samples: mAP, mean IoU, ROC AUC, R². Rules over answers, without I/O.

A paired permutation test: in each recording, both models exchange their answers by lot, and the measure of both is computed anew.
The intervals that are shown are a bootstrap over recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_pipeline.retraining.gate import ChallengerLimits, Comparison, nothing

__all__ = ["PairedMeasure", "Part"]

SWAPS = 2000  # each one and its opposite count; with fewer possible ones, each of them is counted
MIN_SWAPS = 500
WORK = 2_000_000  # samples that are measured, beyond which swaps become fewer
RESAMPLES = 500
TINY = 1e-12


@dataclass(frozen=True)
class Part:
    """What the measure is a mean over, such as a label. `samples` (N,): whether each one is about it."""

    name: str
    samples: Array


@dataclass(frozen=True)
class PairedMeasure:
    """Both models' answers to the same N samples.

    `measure`: of weights (2N,), first of the champion's answers, then of the challenger's: the metric, and that of each of `parts`;
    NaN where there is none, for which `lacking` has the reason. `groups`: (N,) names of who took the samples.
    """

    metric: str
    measure: Callable[[Array], Array]
    recordings: Array
    groups: Array
    parts: Sequence[Part] = ()
    lacking: str = ""

    def whole(self, name: str) -> Comparison:
        """Of all samples; of none, where they have no metric."""
        return self._every.comparison(name, 0, self.recordings)

    def slices(self, where: str, limits: ChallengerLimits) -> list[Comparison]:
        """Of each group and of each part with enough samples and a metric; a single one is the whole, and not said again."""
        found, names = [], np.unique(self.groups)
        for group in names if len(names) > 1 else ():
            rows = self.groups == group
            if rows.sum() >= limits.min_slice_samples:
                found.append(self._figures(rows).comparison(f"{where}, of {group}", 0, self.recordings[rows]))
        for number, part in enumerate(self.parts if len(self.parts) > 1 else (), 1):
            if part.samples.sum() >= limits.min_slice_samples:
                found.append(self._every.comparison(f"{where}, {part.name}", number, self.recordings[part.samples]))
        return [one for one in found if one.samples]

    @property
    def resampled(self) -> Array:
        """The differences (n, 1 + parts) of resampled recordings."""
        return self._every.resampled

    @cached_property
    def _every(self) -> _Figures:
        return self._figures(np.ones(len(self.recordings), bool))

    def _figures(self, rows: Array) -> _Figures:
        """Of these samples (N,) alone."""
        rng = np.random.default_rng(0)
        recordings, place = np.unique(self.recordings[rows], return_inverse=True)
        columns, once = 1 + len(self.parts), np.ones(int(rows.sum()))

        def both(first: Array, second: Array) -> tuple[Array, Array]:
            """The measure of answers by the weights of the champion's and of the challenger's, and with these exchanged."""
            weights = np.zeros((2, len(rows)))
            weights[:, rows] = first, second
            return self.measure(weights.reshape(-1)), self.measure(weights[::-1].reshape(-1))

        if not len(recordings):
            nan = np.full(columns, np.nan)
            return _Figures(nan, nan, np.zeros((0, columns)), np.zeros((0, columns)), False)
        champion, challenger = both(once, 0 * once)
        swaps, complete = _swaps(len(recordings), int(np.clip(WORK // len(rows), MIN_SWAPS, SWAPS)), rng)
        swapped, resampled = np.empty((len(swaps), columns)), np.empty((RESAMPLES, columns))
        for i, swap in enumerate(swaps):
            first, second = both(1.0 - swap[place], swap[place].astype(float))
            swapped[i] = second - first
        for i in range(RESAMPLES):
            drawn = np.bincount(rng.integers(0, len(recordings), len(recordings)), minlength=len(recordings))[place]
            first, second = both(drawn, 0 * drawn)
            resampled[i] = second - first
        return _Figures(champion, challenger, swapped, resampled, complete)


@dataclass(frozen=True)
class _Figures:
    """Of both models (columns,), and the differences of swapped and of resampled answers (n, columns).

    `complete`: the swaps and their opposites are all that there are.
    """

    champion: Array
    challenger: Array
    swapped: Array
    resampled: Array
    complete: bool

    def comparison(self, name: str, column: int, recordings: Array) -> Comparison:
        """Of one column. `recordings`: of the samples that it is about."""
        champion, challenger = float(self.champion[column]), float(self.challenger[column])
        if not np.isfinite([champion, challenger]).all():
            return nothing(name)
        drawn = self.resampled[:, column]
        low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (-1.0, 1.0)
        difference = challenger - champion
        return Comparison(
            name, len(recordings), len(np.unique(recordings)), champion, challenger, difference, float(low), float(high),
            self._share(column, difference), self._share(column, -difference),
        )  # fmt: skip

    def _share(self, column: int, difference: float) -> float:
        """The p of a difference as large as this."""
        swapped = self.swapped[:, column]
        as_large = int((swapped >= difference - TINY).sum() + (-swapped >= difference - TINY).sum())
        return as_large / (2 * len(swapped)) if self.complete else (as_large + 1) / (2 * len(swapped) + 1)


def _swaps(recordings: int, most: int, rng: np.random.Generator) -> tuple[Array, bool]:
    """Which recordings are exchanged: (n, recordings) bool, without opposites; and whether these are all."""
    if recordings - 1 < np.log2(most):
        numbers = np.arange(1 << (recordings - 1))
        return (numbers[:, None] >> np.arange(recordings)) & 1 == 1, True
    return rng.random((most, recordings)) < 0.5, False
