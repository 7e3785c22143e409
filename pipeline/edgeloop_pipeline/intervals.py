"""How sure an accuracy is."""

from __future__ import annotations

import numpy as np

from edgeloop_contract.manifest import Estimate
from edgeloop_pipeline.data import Array

RESAMPLES = 2000


def accuracy(correct: Array, clusters: Array) -> Estimate:
    """Share of `correct` with a 95 % interval: a percentile bootstrap over `clusters` (Field & Welsh 2007).

    Windows of one recording err together; resampling whole recordings keeps the interval honest.
    """
    _, index = np.unique(clusters, return_inverse=True)
    hits = np.bincount(index, weights=correct.astype(np.float64))
    sizes = np.bincount(index).astype(np.float64)
    generator = np.random.default_rng(0)
    shares = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        drawn = np.bincount(generator.integers(0, len(hits), len(hits)), minlength=len(hits))
        shares[i] = drawn @ hits / (drawn @ sizes)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Estimate(value=float(correct.mean()), low=float(low), high=float(high), samples=len(correct))
