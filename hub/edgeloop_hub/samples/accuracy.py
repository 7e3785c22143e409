"""Accuracy from labelled samples, without the bias of what was chosen to be labelled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, and_, func, select

from edgeloop_hub.storage.schema import samples

LEAST = 10  # samples of which something is told, unless there are no more


def lot(device: str, key: str) -> float:
    """A sample's place in [0, 1) among those drawn at random: as good as drawn, and the same for ever."""
    return int.from_bytes(hashlib.sha256(f"{device}/{key}".encode()).digest()[:6]) / 2**48


def drawn(connection: Connection, sha256s: set[str] | None, since: float, without: Iterable[str] = ()) -> list[Any]:
    """Guess, label and confidence of random samples: a fair share of what bundles (None: all of them) answered, `without` devices.

    Of the random samples those have a label first that were chosen for their doubt as well, or whose recording was: of those that
    have one fewer are right than of all. Fair are the first by lot, until one has no label: people are asked in that order, and
    those that have a label already count where they stand. The one that ends it is no part of it (inverse sampling, Haldane 1945).
    What came after the last label is not looked at.
    """
    told = samples.c.truth == ""  # what a device says of itself is no measure of it
    frame = and_(samples.c.random == 1, told, samples.c.at >= since, samples.c.skipped == 0, samples.c.device.not_in(list(without)))
    if sha256s is not None:
        frame = and_(frame, samples.c.sha256.in_(sha256s))
    until = connection.execute(select(func.max(samples.c.labelled)).where(frame)).scalar()
    if until is None:
        return []
    columns = (samples.c.device, samples.c.key, samples.c.guess, samples.c.label, samples.c.confidence)
    found: list[Any] = []
    with connection.execute(select(*columns).where(frame, samples.c.at <= until).order_by(samples.c.lot)) as rows:
        for row in rows:
            if row.label is None:
                return found if len(found) >= LEAST else []
            found.append(row)
    return found
