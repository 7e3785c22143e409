"""Labels of samples and of whole recordings: stored, counted, and settled when enough people agree."""

from __future__ import annotations

import time

from sqlalchemy import Connection, and_, delete, exists, func, insert, or_, select, update

from edgeloop_contract.errors import DataError
from edgeloop_contract.messages import MAX_RECORDINGS
from edgeloop_contract.sample_messages import RecordingLabel
from edgeloop_hub.samples.annotation_check import part_of
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import labels, recordings, samples
from edgeloop_hub.updates import registry

MAX_LISTED = 10_000


def label(connection: Connection, device: str, key: str, person: str, name: str, settings: Settings, whole: bool = False) -> int:
    """Store one person's label; returns how many samples are settled by it: those alike too, once enough people agree.

    `whole`: the person says it of every sample of that recording, and it counts as if each had been asked about: also of
    samples that are yet to come, and the device is asked for them.
    Raises DataError where there is no such sample, or the model knows no such label.
    """
    row = connection.execute(
        select(samples.c.model, samples.c.recording).where(samples.c.device == device, samples.c.key == key)
    ).first()
    if row is None:
        raise DataError(f"there is no sample {device}/{key}")
    bundle = registry.newest(connection, row.model)
    if part := part_of(bundle, None):
        raise DataError(f"{row.model} answers {part}; a label alone does not say them: send an annotation")
    known = bundle.labels
    if known and name not in known:
        raise DataError(f"{row.model} knows no label {name[:100]!r}; there is {', '.join(known)}")
    keys = [key]
    if whole and row.recording:
        together = and_(samples.c.device == device, samples.c.recording == row.recording, samples.c.model == row.model)
        before = of_recording(connection, device, row.recording, row.model).get(person, "")  # the person's earlier label of it
        mine = and_(labels.c.device == samples.c.device, labels.c.key == samples.c.key, labels.c.person == person)
        taken_back = exists().where(mine, labels.c.label == before)
        others = select(samples.c.key).where(together, or_(samples.c.labelled.is_(None), taken_back), samples.c.key != key)
        keys += connection.execute(others).scalars()
        _store_of_recording(connection, device, row.recording, row.model, person, name)
    return sum(_store_of_sample(connection, device, one, person, name, settings) for one in keys)


def skip(connection: Connection, device: str, key: str) -> None:
    """Nobody can tell what it is: people are asked no more about it, nor about samples alike."""
    this = and_(samples.c.device == device, samples.c.key == key)
    alike = and_(samples.c.alike == f"{device}/{key}", samples.c.labelled.is_(None))
    connection.execute(update(samples).where(or_(this, alike)).values(skipped=1))


def of_recording(connection: Connection, device: str, recording: str, model: str) -> dict[str, str]:
    """The label that each person gave the whole recording, by person."""
    this = and_(recordings.c.device == device, recordings.c.recording == recording, recordings.c.model == model)
    return {row.person: row.label for row in connection.execute(select(recordings).where(this).order_by(recordings.c.at))}


def label_arrived(connection: Connection, device: str, key: str, by_person: dict[str, str], settings: Settings) -> None:
    """Label a new sample of a recording that people have labelled as a whole."""
    for person, name in by_person.items():
        _store_of_sample(connection, device, key, person, name, settings)


def wanted_recordings(connection: Connection, device: str, settings: Settings) -> list[str]:
    """Recordings of the device on whose label enough people agree, and whose other samples it has not released yet."""
    rows = (
        select(recordings.c.recording)
        .where(recordings.c.device == device, recordings.c.released.is_(None))
        .group_by(recordings.c.recording, recordings.c.model, recordings.c.label)
        .having(func.count() >= settings.labels_needed)
        .order_by(func.min(recordings.c.at))
        .limit(MAX_RECORDINGS)
    )
    return list(dict.fromkeys(connection.execute(rows).scalars()))


def mark_released(connection: Connection, device: str, names: list[str]) -> None:
    """The device holds back no more samples of these recordings."""
    mine = and_(recordings.c.device == device, recordings.c.recording.in_(names), recordings.c.released.is_(None))
    connection.execute(update(recordings).where(mine).values(released=time.time()))


def recording_labels(connection: Connection, model: str) -> list[RecordingLabel]:
    """Labels of whole recordings, oldest first."""
    rows = select(recordings).order_by(recordings.c.at).limit(MAX_LISTED)
    rows = rows.where(recordings.c.model == model) if model else rows
    return [
        RecordingLabel(r.device, r.recording, r.model, r.person, r.label, r.at, r.released) for r in connection.execute(rows)
    ]  # fmt: skip


def _store_of_recording(connection: Connection, device: str, recording: str, model: str, person: str, name: str) -> None:
    this = and_(recordings.c.device == device, recordings.c.recording == recording, recordings.c.model == model)
    released = connection.execute(select(func.max(recordings.c.released)).where(this)).scalar()
    connection.execute(delete(recordings).where(this, recordings.c.person == person))
    connection.execute(
        insert(recordings).values(
            device=device, recording=recording, model=model, person=person, label=name, at=time.time(), released=released
        )
    )


def _store_of_sample(connection: Connection, device: str, key: str, person: str, name: str, settings: Settings) -> int:
    """One person's label of one sample; returns how many samples are settled."""
    now = time.time()
    connection.execute(delete(labels).where(labels.c.device == device, labels.c.key == key, labels.c.person == person))
    connection.execute(insert(labels).values(device=device, key=key, person=person, label=name, at=now))
    votes = connection.execute(
        select(func.count()).where(labels.c.device == device, labels.c.key == key, labels.c.label == name)
    ).scalar_one()
    if votes < settings.labels_needed:
        return 0
    this = and_(samples.c.device == device, samples.c.key == key)
    head = and_(samples.c.alike == f"{device}/{key}", samples.c.labelled.is_(None))
    return int(connection.execute(update(samples).where(or_(this, head)).values(label=name, labelled=now, skipped=0)).rowcount)
