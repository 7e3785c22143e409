"""Whether the shares of labels moved, told from a few devices' reports.

Answers within one report resemble each other: they are windows of one recording, or one afternoon of one camera. A test that took
them for independent would stop good rollouts. So reports are the units: how far they scatter around the pooled shares gives the
design effect by which chi-square is divided (Rao & Scott 1984, first order; the F distribution for few units as Thomas & Rao 1987).
With one device on each side, a device that sees other things than the other cannot be told from a bundle that answers otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

__all__ = ["MIN_REPORTS", "OUTLIER", "LabelMixes", "moved", "table_of"]

MAX_LABELS = 50  # that are compared by name; the rarer ones are one
OUTLIER = 10.0  # times the median: for no more than that a device counts
MIN_REPORTS = 3  # of each side: with fewer, their scatter is not known


class LabelMixes(msgspec.Struct, gc=False):
    """Sums over one device's reports, from which the scatter around any shares follows: bounded, however many reports there are."""

    reports: int = 0
    squares: float = 0.0  # of the reports' answers
    by_label: dict[str, int] = {}
    squares_by_label: dict[str, float] = {}
    products_by_label: dict[str, float] = {}  # of a label's answers and all answers

    @classmethod
    def of(cls, labels: Mapping[str, int]) -> LabelMixes:
        """Those of one report."""
        made = cls()
        made.add(labels)
        return made

    def add(self, labels: Mapping[str, int]) -> None:
        total = sum(labels.values())
        if total <= 0:
            return
        self.reports += 1
        self.squares += total**2
        for name, count in labels.items():
            self.by_label[name] = self.by_label.get(name, 0) + count
            self.squares_by_label[name] = self.squares_by_label.get(name, 0.0) + count**2
            self.products_by_label[name] = self.products_by_label.get(name, 0.0) + count * total


def moved(new: Sequence[LabelMixes], old: Sequence[LabelMixes]) -> float:
    """p of equal shares, over the reports of both sides."""
    from scipy.stats import f

    sides = [_pooled(side) for side in (new, old)]
    totals = [sum(counts.values()) for counts in sides]
    names = sorted(set(sides[0]) | set(sides[1]))
    whole = sum(totals)
    expected = {name: (sides[0][name] + sides[1][name]) / whole for name in names}
    names = [name for name in names if expected[name] > 0]
    if len(names) < 2:
        return 1.0
    square = sum(
        (counts[name] - total * expected[name]) ** 2 / (total * expected[name])
        for counts, total in zip(sides, totals, strict=True) for name in names
    )  # fmt: skip
    effects = [_design_effect(side, counts, names) for side, counts in zip((new, old), sides, strict=True)]
    effect = max(1.0, sum((1 - total / whole) * one for total, one in zip(totals, effects, strict=True)))
    units = sum(device.reports for side in (new, old) for device in side)
    free = len(names) - 1
    return float(f.sf(square / effect / free, free, free * max(1, units - 2)))


def _pooled(side: Sequence[LabelMixes]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for device in side:
        counts.update(device.by_label)
    return counts


def _design_effect(side: Sequence[LabelMixes], counts: Counter[str], names: Sequence[str]) -> float:
    """How many times larger the variance of the shares is than that of independent answers; 1 where reports do not scatter."""
    total, reports = sum(counts.values()), sum(device.reports for device in side)
    squares = sum(device.squares for device in side)
    scattered = 0.0
    for name in names:
        share = counts[name] / total
        if not share:
            continue
        own = sum(device.squares_by_label.get(name, 0.0) for device in side)
        crossed = sum(device.products_by_label.get(name, 0.0) for device in side)
        scattered += max(0.0, own - 2 * share * crossed + share**2 * squares) / share
    return max(1.0, scattered / total / (len(names) - 1) * reports / max(1, reports - 1))


def table_of(rows: list[dict[str, int]]) -> Any:
    """Counts of answers: a row for each device, a column for each label. Rare labels share a column; rows are clipped."""
    devices = Counter(name for row in rows for name, count in row.items() if count > 0)
    places = {name: i for i, (name, _) in enumerate(devices.most_common(MAX_LABELS))}
    table = np.zeros((len(rows), len(places) + 1))
    for line, row in zip(table, rows, strict=True):
        for name, count in row.items():
            line[places.get(name, -1)] += count
    answers = table.sum(axis=1)
    most = OUTLIER * float(np.median(answers))
    table *= np.minimum(1.0, most / answers)[:, None]
    return table[:, table.sum(axis=0) > 0]
