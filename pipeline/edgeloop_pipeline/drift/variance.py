"""Between-group variance of the features without drift; `edgeloop_hub.drift.discoveries` compares devices with it."""

from __future__ import annotations

import numpy as np

from edgeloop_contract.arrays import Array

MIN_GROUPS = 3


def between_group_variance(values: Array, recordings: Array, groups: Array) -> tuple[Array, Array, int]:
    """The variance (F,) between groups, the variance (F,) of recordings within a group, and the number of groups.

    `values`: (n, F), standardised. If groups are few, recordings take their place. 0 groups: samples are independent, and a mean's
    deviation depends only on their number.
    """
    _, recording = np.unique(recordings, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    means, counts = _means(values, recording)
    nothing = np.zeros(values.shape[1])
    if not MIN_GROUPS <= group.max() + 1 < len(counts):
        return (means.std(0, ddof=1), nothing, len(counts)) if 1 < len(counts) < len(values) else (nothing, nothing, 0)
    of_groups, _ = _means(values, group)
    owner = np.zeros(len(counts), dtype=np.intp)
    owner[recording] = group
    free = max(1, len(counts) - len(of_groups))
    within = ((means - of_groups[owner]) ** 2).sum(0) / free - (1 / counts).mean()
    return of_groups.std(0, ddof=1), np.sqrt(np.maximum(within, 0.0)), len(of_groups)


def _means(values: Array, place: Array) -> tuple[Array, Array]:
    """The means (places, F) of the values by place, and the number of values in each."""
    counts = np.bincount(place)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, place, values)
    return sums / counts[:, None], counts
