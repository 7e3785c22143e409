"""The accuracy that confidence promises, and how far such promises were off on labelled samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sqlalchemy import Connection

from edgeloop_contract.drift import BINS
from edgeloop_contract.hub_messages import BundleSummary
from edgeloop_contract.sample_messages import ExpectedAccuracy
from edgeloop_hub.drift.reports import ReportsByDevice, faulty
from edgeloop_hub.samples import accuracy

MAX_ANSWERS = 1_000_000  # that one report is believed, of each confidence


def expected_accuracy(
    connection: Connection, reports: ReportsByDevice, summaries: Mapping[str, BundleSummary], since: float
) -> ExpectedAccuracy | None:
    """For the bundles that run now. None: no bundle says how its confidence is to be read, or nothing was answered."""
    bins = np.zeros(BINS)
    expected, right, labelled, error = 0.0, 0, 0, 0.0
    newest, excluded = {rows[-1][1].sha256 for rows in reports.values()}, faulty(connection)
    for sha256 in newest:
        table = summaries[sha256].reliability if sha256 in summaries else []
        if len(table) != BINS:
            continue
        shares = np.array([row[0] for row in table])
        answers = np.zeros(BINS)
        for rows in reports.values():
            for _, report in rows:
                if report.sha256 == sha256 and len(report.confidence) == BINS:
                    answers += np.minimum(report.confidence, MAX_ANSWERS)
        bins += answers
        expected += float(answers @ shares)
        for sample in accuracy.drawn(connection, {sha256}, since, excluded):
            labelled += 1
            is_right = sample.prediction == sample.label
            right += is_right
            error += float(shares[min(int(sample.confidence * BINS), BINS - 1)]) - is_right
    count = int(bins.sum())
    if not count:
        return None
    share = expected / float(bins.sum())
    if not labelled:
        return ExpectedAccuracy(expected=share, answers=count, measured=None, labelled=0, error=None)
    return ExpectedAccuracy(expected=share, answers=count, measured=right / labelled, labelled=labelled, error=error / labelled)
