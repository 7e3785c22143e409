"""The accuracy that confidence promises, and how far such promises were off on labelled samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection

from edgeloop_contract.drift import BINS
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.drift.reports import faulty
from edgeloop_hub.samples import accuracy

MOST_ANSWERS = 1_000_000  # that one report is believed, of each confidence


@dataclass(frozen=True)
class Promise:
    """Accuracy as confidence promises it; and what labelled samples drawn at random said, where there are any.

    `error`: promised less measured, over the labelled ones: how far such promises were off.
    """

    promised: float
    answers: int
    measured: float | None
    labelled: int
    error: float | None


def promise(
    connection: Connection, found: dict[str, list[tuple[float, DriftReport]]], known: dict[str, dict[str, Any]], since: float
) -> Promise | None:
    """For the bundles that run now. None: no bundle says how its confidence is to be read, or nothing was answered."""
    bins = np.zeros(BINS)
    expected, right, labelled, error = 0.0, 0, 0, 0.0
    newest, without = {rows[-1][1].sha256 for rows in found.values()}, faulty(connection)
    for sha256 in newest:
        table = known.get(sha256, {}).get("reliability", [])
        if len(table) != BINS:
            continue
        shares = np.array([row[0] for row in table])
        seen = np.zeros(BINS)
        for rows in found.values():
            for _, report in rows:
                if report.sha256 == sha256 and len(report.confidence) == BINS:
                    seen += np.minimum(report.confidence, MOST_ANSWERS)
        bins += seen
        expected += float(seen @ shares)
        for row in accuracy.drawn(connection, {sha256}, since, without):
            labelled += 1
            right += row.guess == row.label
            error += float(shares[min(int(row.confidence * BINS), BINS - 1)]) - (row.guess == row.label)
    if not bins.sum():
        return None
    said = (right / labelled, labelled, error / labelled) if labelled else (None, 0, None)
    return Promise(expected / float(bins.sum()), int(bins.sum()), *said)
