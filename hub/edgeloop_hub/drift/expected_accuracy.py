"""The accuracy that confidence promises, and how far such promises were off on labelled samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sqlalchemy import Connection

from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import BINS
from edgeloop_contract.hub_messages import BundleSummary
from edgeloop_contract.sample_messages import ExpectedAccuracy
from edgeloop_hub.drift.reports import ReportsByDevice, count_of, faulty
from edgeloop_hub.samples import accuracy

MAX_ANSWERS = 1_000_000  # that one report is believed, of each confidence


def expected_accuracy(
    connection: Connection, reports: ReportsByDevice, summaries: Mapping[str, BundleSummary], since: float
) -> ExpectedAccuracy | None:
    """For the bundles that run now. None: no bundle says how its confidence is to be read, or nothing was answered."""
    answers: dict[str, Array] = {rows[-1][1].sha256: np.zeros(BINS) for rows in reports.values()}
    for rows in reports.values():
        for _, report in rows:
            if report.sha256 in answers and len(report.confidence) == BINS:
                answers[report.sha256] += np.minimum(report.confidence, MAX_ANSWERS * count_of(report))
    return of_answers(connection, answers, summaries, since)


def of_answers(
    connection: Connection, answers: Mapping[str, Array], summaries: Mapping[str, BundleSummary], since: float
) -> ExpectedAccuracy | None:
    """The same, of answers by bundle: (BINS,) by confidence."""
    total, expected, right, labelled, error = 0, 0.0, 0, 0, 0.0
    excluded: list[str] | None = None
    for sha256, bins in answers.items():
        table = summaries[sha256].reliability if sha256 in summaries else []
        if len(table) != BINS:
            continue
        excluded = faulty(connection) if excluded is None else excluded
        shares = np.array([row[0] for row in table])
        total += int(bins.sum())
        expected += float(bins @ shares)
        for sample in accuracy.drawn(connection, {sha256}, since, excluded):
            labelled += 1
            is_right = sample.prediction == sample.label
            right += is_right
            error += float(shares[min(int(sample.confidence * BINS), BINS - 1)]) - is_right
    if not total:
        return None
    share = expected / total
    if not labelled:
        return ExpectedAccuracy(expected=share, answers=total, measured=None, labelled=0, error=None)
    return ExpectedAccuracy(expected=share, answers=total, measured=right / labelled, labelled=labelled, error=error / labelled)
