"""Stored samples: found, listed, read in pages, forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, exists, literal, or_, select, tuple_

from edgeloop_contract.sample_messages import ListedSample, QueuedSample, StoredSample
from edgeloop_hub.samples.annotating import decoded
from edgeloop_hub.samples.values import others_of
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.schema import annotated_samples, labels, personal_annotations, recordings, sample_inputs, samples

MAX_LISTED = 10_000
PAGE_BYTES = 16 << 20  # of samples' data in one answer
_SUMMARY = (
    "device", "key", "taken", "kind", "random", "model", "sha256", "recording", "window", "guess", "confidence", "value", "label",
    "truth",
)  # fmt: skip
_OWN_INPUTS = and_(sample_inputs.c.device == samples.c.device, sample_inputs.c.key == samples.c.key)
_OWN_ANNOTATION = and_(annotated_samples.c.device == samples.c.device, annotated_samples.c.key == samples.c.key)
_WHOLE = (samples, sample_inputs.c.input, sample_inputs.c.others, annotated_samples.c.settled)
_TOGETHER = samples.outerjoin(sample_inputs, _OWN_INPUTS).outerjoin(annotated_samples, _OWN_ANNOTATION)
SUMMARY_COLUMNS = tuple(samples.c[name] for name in _SUMMARY)


def summary_fields(row: Row[Any]) -> dict[str, Any]:
    """The fields of a `SampleSummary`, of a row that has the SUMMARY_COLUMNS."""
    return {"prediction" if name == "guess" else name: getattr(row, name) for name in _SUMMARY}


def find(connection: Connection, device: str, key: str) -> Row[Any] | None:
    rows = select(*_WHOLE).select_from(_TOGETHER)
    return connection.execute(rows.where(samples.c.device == device, samples.c.key == key)).first()


def queued(connection: Connection, device: str, key: str) -> QueuedSample | None:
    """One sample as the queue has it, whether it waits or not; None where there is none."""
    row = connection.execute(select(*SUMMARY_COLUMNS).where(samples.c.device == device, samples.c.key == key)).first()
    return None if row is None else QueuedSample(**summary_fields(row))


def listed(connection: Connection, model: str, state: str) -> list[ListedSample]:
    """Samples without their data: "open", "labelled" or "all"; with who labelled them."""
    rows = select(*SUMMARY_COLUMNS).order_by(samples.c.at)
    rows = rows.where(samples.c.model == model) if model else rows
    if state != "all":
        rows = rows.where(samples.c.labelled.is_(None) if state == "open" else samples.c.labelled.is_not(None))
    people: dict[tuple[str, str], list[str]] = {}
    for table in (labels, personal_annotations):
        for row in connection.execute(select(table.c.device, table.c.key, table.c.person)):
            people.setdefault((row.device, row.key), []).append(row.person)
    return [
        ListedSample(**summary_fields(row), people=people.get((row.device, row.key), []))
        for row in connection.execute(rows.limit(MAX_LISTED))
    ]


def labelled_after(connection: Connection, model: str, after: tuple[float, str, str], limit: int) -> list[StoredSample]:
    """Labelled samples in the order of labelling, behind the place (labelled, device, key): a page for retraining."""
    place = tuple_(samples.c.labelled, samples.c.device, samples.c.key)
    labelled_itself = exists().where(labels.c.device == samples.c.device, labels.c.key == samples.c.key)
    itself = or_(labelled_itself, annotated_samples.c.settled.is_not(None)).label("itself")
    rows = select(*_WHOLE, itself).select_from(_TOGETHER)
    has_label = or_(samples.c.label.is_not(None), annotated_samples.c.settled.is_not(None))
    rows = rows.where(samples.c.model == model, samples.c.labelled.is_not(None), has_label, place > tuple_(*after))
    return _page(connection, rows.order_by(samples.c.labelled, samples.c.device, samples.c.key).limit(limit))


def open_before(connection: Connection, model: str, before: tuple[float, str, str], limit: int) -> list[StoredSample]:
    """Samples that nobody labelled nor gave up, the newest first, older than the place (at, device, key): a page of them."""
    place = tuple_(samples.c.at, samples.c.device, samples.c.key)
    itself = literal(False).label("itself")
    rows = select(*_WHOLE, itself).select_from(_TOGETHER)
    rows = rows.where(samples.c.model == model, samples.c.labelled.is_(None), samples.c.skipped == 0)
    newest = (samples.c.at.desc(), samples.c.device.desc(), samples.c.key.desc())
    return _page(connection, rows.where(place < tuple_(*before)).order_by(*newest).limit(limit))


def _page(connection: Connection, rows: Select[Any]) -> list[StoredSample]:
    """At least one row, however large; then as many as fit into PAGE_BYTES."""
    page: list[StoredSample] = []
    size = 0
    with connection.execute(rows) as matching:
        for row in matching:
            size += len(row.data) + len(row.others or b"") + len(row.settled or b"")
            if page and size > PAGE_BYTES:
                break
            page.append(
                StoredSample(
                    **summary_fields(row), at=row.at, labelled=row.labelled, dtype=row.dtype, shape=json.loads(row.shape),
                    data=row.data, input=row.input or "", others=others_of(row), labelled_itself=bool(row.itself),
                    annotation=decoded(row.settled),
                )
            )  # fmt: skip
    return page


def old(unlabelled_before: float, before: float) -> Iterator[Old]:
    """Unlabelled samples, labelled ones and labels of recordings that are older than these times; then what was said of them."""
    yield Old(samples, and_(samples.c.at < unlabelled_before, samples.c.labelled.is_(None)))
    yield Old(samples, samples.c.at < before)
    yield Old(recordings, recordings.c.at < before)
    for table in (labels, sample_inputs, annotated_samples, personal_annotations):
        there = select(samples.c.key).where(samples.c.device == table.c.device, samples.c.key == table.c.key)
        yield Old(table, ~there.exists())
