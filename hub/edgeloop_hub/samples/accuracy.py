"""Accuracy from labelled samples, without the bias of what was chosen to be labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select

from edgeloop_hub.storage.schema import samples

MIN_SAMPLES = 10  # with fewer labelled ones nothing is estimated, unless there are no more


@dataclass(frozen=True)
class LabelledSample:
    """What a model predicted, with its confidence, and the label."""

    device: str
    key: str
    prediction: str
    confidence: float
    label: str


def lot(device: str, key: str) -> float:
    """A sample's place in [0, 1) among those drawn at random: as good as drawn, and the same for ever."""
    return int.from_bytes(hashlib.sha256(f"{device}/{key}".encode()).digest()[:6]) / 2**48


def drawn(connection: Connection, sha256s: set[str] | None, since: float, excluded: Iterable[str] = ()) -> list[LabelledSample]:
    """Random labelled samples: a fair share of what bundles (None: all of them) answered, without the `excluded` devices.

    Of the random samples some have a label early: those that were uncertain as well, or whose recording was. Fewer of these are
    right than of all. So the fair ones are the first by lot, until one has no label: people are asked in that order, and samples
    that have a label already count at their place. The sample that ends the sequence is not part of it (inverse sampling, Haldane
    1945). Samples that came after the last label are not read.
    """
    by_people = samples.c.truth == ""  # the device's own label measures nothing
    frame = and_(samples.c.random == 1, by_people, samples.c.at >= since, samples.c.skipped == 0)
    frame = and_(frame, samples.c.device.not_in(list(excluded)))
    if sha256s is not None:
        frame = and_(frame, samples.c.sha256.in_(sha256s))
    until = connection.execute(select(func.max(samples.c.labelled)).where(frame)).scalar()
    if until is None:
        return []
    columns = (samples.c.device, samples.c.key, samples.c.guess, samples.c.label, samples.c.confidence)
    fair: list[LabelledSample] = []
    with connection.execute(select(*columns).where(frame, samples.c.at <= until).order_by(samples.c.lot)) as rows:
        for row in rows:
            if row.label is None:
                return fair if len(fair) >= MIN_SAMPLES else []
            fair.append(LabelledSample(row.device, row.key, row.guess, row.confidence, row.label))
    return fair
