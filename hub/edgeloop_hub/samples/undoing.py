"""Taking an answer of the queue back (a label, of a recording too, an annotation, "cannot tell"), and how far the queue is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, or_, select, update

from edgeloop_contract.errors import DataError
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import annotated_samples, labels, personal_annotations, recordings, samples

DAY = 86_400.0


@dataclass(frozen=True)
class Progress:
    """Samples that are settled and that wait, and answers of this person in the last day."""

    settled: int
    open: int
    mine: int


def undo(connection: Connection, device: str, key: str, person: str, settings: Settings) -> None:
    """The sample waits again as if this person had not answered, those alike too. Raises DataError where there is no such sample.

    A label of a whole recording is taken back from all samples that got it by this answer.
    """
    row = connection.execute(select(samples).where(samples.c.device == device, samples.c.key == key)).first()
    if row is None:
        raise DataError(f"there is no sample {device}/{key}")
    keys = {key, *_of_recording(connection, device, row.recording, row.model, person)}
    for one in sorted(keys):
        _take_back(connection, device, one, person, settings)
    alike = and_(samples.c.alike == f"{device}/{key}", samples.c.labelled.is_(None))
    this = and_(samples.c.device == device, samples.c.key == key)
    connection.execute(update(samples).where(or_(this, alike), samples.c.skipped == 1).values(skipped=0))


def _of_recording(connection: Connection, device: str, recording: str, model: str, person: str) -> list[str]:
    """Samples that this person labelled with their whole recording; what was said of the recording is deleted."""
    mine = and_(
        recordings.c.device == device, recordings.c.recording == recording, recordings.c.model == model,
        recordings.c.person == person,
    )  # fmt: skip
    said = connection.execute(select(recordings.c.label, recordings.c.at).where(mine)).first()
    if not recording or said is None:
        return []
    connection.execute(delete(recordings).where(mine))
    both = and_(labels.c.device == samples.c.device, labels.c.key == samples.c.key)
    query = select(samples.c.key).select_from(samples.join(labels, both)).where(
        samples.c.device == device, samples.c.recording == recording, samples.c.model == model, labels.c.person == person,
        labels.c.label == said.label, labels.c.at >= said.at,
    )  # fmt: skip
    return list(connection.execute(query).scalars())


def _take_back(connection: Connection, device: str, key: str, person: str, settings: Settings) -> None:
    for table in (labels, personal_annotations):
        connection.execute(delete(table).where(table.c.device == device, table.c.key == key, table.c.person == person))
    this = and_(samples.c.device == device, samples.c.key == key)
    settled = connection.execute(select(samples.c.label, samples.c.labelled).where(this, samples.c.labelled.is_not(None))).first()
    if settled is None:
        return
    agree = select(func.count()).where(labels.c.device == device, labels.c.key == key, labels.c.label == settled.label)
    if settled.label is not None and connection.execute(agree).scalar_one() >= settings.labels_needed:
        return  # others said the same
    own = select(labels.c.key).where(labels.c.device == samples.c.device, labels.c.key == samples.c.key)
    alike = and_(samples.c.alike == f"{device}/{key}", samples.c.labelled == settled.labelled, ~own.exists())
    connection.execute(update(samples).where(or_(this, alike)).values(label=None, labelled=None))
    mine = and_(annotated_samples.c.device == device, annotated_samples.c.key == key)
    connection.execute(update(annotated_samples).where(mine).values(settled=None))


def progress(connection: Connection, model: str, person: str) -> Progress:
    """Of one model, or of all."""
    counts = select(samples.c.labelled.is_not(None).label("settled"), func.count().label("many"))
    counts = counts.where(samples.c.skipped == 0).group_by(samples.c.labelled.is_not(None))
    counts = counts.where(samples.c.model == model) if model else counts
    many = {bool(row.settled): row.many for row in connection.execute(counts)}
    mine = sum(
        connection.execute(
            select(func.count()).select_from(table).where(table.c.person == person, table.c.at > time.time() - DAY)
        ).scalar_one()
        for table in (labels, personal_annotations)
    )
    return Progress(many.get(True, 0), many.get(False, 0), mine)
