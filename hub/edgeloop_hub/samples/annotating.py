"""Annotations of samples: boxes, masks, quantities and several labels, stored by person and settled when enough people agree."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection, Row, and_, delete, func, insert, select, update

from edgeloop_contract.annotations import Annotation
from edgeloop_contract.errors import DataError
from edgeloop_contract.hub_messages import BundleSummary
from edgeloop_contract.messages import Sample
from edgeloop_contract.sample_messages import SampleAnnotations
from edgeloop_hub.samples.agreement import AgreementRules, agreeing, compare, joined
from edgeloop_hub.samples.annotation_check import MASKED, part_of, problem
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import annotated_samples, samples
from edgeloop_hub.storage.schema import personal_annotations as personal
from edgeloop_hub.updates import registry

MAX_ANSWER_BYTES = 1 << 20  # of a device's answer to one sample


def decoded(body: bytes | None) -> Annotation | None:
    """An annotation as the tables hold it; None where one cannot be read any more."""
    try:
        return None if body is None else msgspec.msgpack.decode(body, type=Annotation)
    except msgspec.MsgspecError:
        return None


def answer_bytes(sample: Sample, summary: BundleSummary) -> bytes | None:
    """A device's answer to keep; None for none, for one that does not fit the model, and for one that is too large."""
    if sample.answer is None:
        return None
    fits = not problem(sample.answer, part_of(summary, sample.answer), summary, sample.shape)
    body = msgspec.msgpack.encode(sample.answer) if fits else b""
    return body if 0 < len(body) <= MAX_ANSWER_BYTES else None


def keep_answer(connection: Connection, device: str, key: str, at: float, body: bytes) -> None:
    """Store what a device answered to a new sample."""
    connection.execute(insert(annotated_samples).values(device=device, key=key, at=at, answer=body, settled=None))


def annotate(connection: Connection, device: str, key: str, person: str, said: Annotation, settings: Settings) -> int:
    """Store one person's annotation; returns how many samples are settled by it: 1 or 0. Raises DataError for what does not fit."""
    known = of_sample(connection, device, key)
    if known is None:
        raise DataError(f"there is no sample {device}/{key}")
    summary = registry.newest(connection, known.model)
    if why := problem(said, known.part, summary, known.shape):
        raise DataError(f"sample {device}/{key}: {why}")
    if said.boxes is not None:  # a score is a model's
        said = Annotation(boxes=[msgspec.structs.replace(box, score=None) for box in said.boxes])
    now, mine = time.time(), and_(personal.c.device == device, personal.c.key == key)
    connection.execute(delete(personal).where(mine, personal.c.person == person))
    connection.execute(insert(personal).values(device=device, key=key, person=person, at=now, body=msgspec.msgpack.encode(said)))
    rules = rules_of(summary, settings)
    group = agreeing(said, [one for who, one in reversed(known.people.items()) if who != person], rules)
    if len(group) < settings.labels_needed:
        return 0
    _settle(connection, device, key, joined(group, rules), now)
    return 1


def _settle(connection: Connection, device: str, key: str, settled: Annotation, now: float) -> None:
    this, body = and_(annotated_samples.c.device == device, annotated_samples.c.key == key), msgspec.msgpack.encode(settled)
    if not connection.execute(update(annotated_samples).where(this).values(settled=body)).rowcount:
        connection.execute(insert(annotated_samples).values(device=device, key=key, at=now, answer=None, settled=body))
    sample = and_(samples.c.device == device, samples.c.key == key)
    connection.execute(update(samples).where(sample).values(labelled=now, skipped=0))


def rules_of(summary: BundleSummary, settings: Settings) -> AgreementRules:
    """When two people agree on a sample of this model."""
    steps = [settings.value_agreement_std * deviation for deviation in summary.spread]
    return AgreementRules(settings.box_agreement_iou, settings.mask_agreement_iou, steps, summary.background, summary.points)


def of_sample(connection: Connection, device: str, key: str) -> SampleAnnotations | None:
    """Everything that is said of one sample, people in the order in which they said it; None where there is no such sample."""
    kept = annotated_samples
    both = and_(kept.c.device == samples.c.device, kept.c.key == samples.c.key)
    rows = select(samples.c.model, samples.c.shape, kept.c.answer, kept.c.settled).select_from(samples.outerjoin(kept, both))
    row = connection.execute(rows.where(samples.c.device == device, samples.c.key == key)).first()
    if row is None:
        return None
    summary, answer = registry.newest(connection, row.model), decoded(row.answer)
    said = select(personal).where(personal.c.device == device, personal.c.key == key).order_by(personal.c.at)
    names = summary.quantities or [label for label in summary.labels if label != summary.background]
    people = {one.person: annotation for one in connection.execute(said) if (annotation := decoded(one.body)) is not None}
    return SampleAnnotations(
        device=device, key=key, model=row.model, part=part_of(summary, answer), names=names,
        shape=json.loads(row.shape), background=summary.background, points=summary.points, masks_of_boxes=summary.task == MASKED,
        answer=answer, settled=decoded(row.settled), people=people,
    )  # fmt: skip


@dataclass(frozen=True)
class Disagreement:
    """A sample that is open although people annotated it. `pairs`: who and who do not agree, and how far they do."""

    device: str
    key: str
    model: str
    pairs: list[tuple[str, str, str]]


def contested(connection: Connection, limit: int) -> Sequence[Row[str, str, str]]:
    """Device, key and model of open samples that several people annotated, the newest first."""
    both = and_(personal.c.device == samples.c.device, personal.c.key == samples.c.key)
    rows = (
        select(samples.c.device, samples.c.key, samples.c.model)
        .select_from(samples.join(personal, both))
        .where(samples.c.labelled.is_(None), samples.c.skipped == 0)
        .group_by(samples.c.device, samples.c.key, samples.c.model)
        .having(func.count() > 1)
        .order_by(func.max(personal.c.at).desc())
        .limit(limit)
    )
    return connection.execute(rows).all()


def disagreements(connection: Connection, settings: Settings, limit: int) -> list[Disagreement]:
    """Open samples on which people disagree, the newest first."""
    found = []
    for row in contested(connection, limit):
        known = of_sample(connection, row.device, row.key)
        rules = rules_of(registry.newest(connection, row.model), settings)
        compared = [
            (one, other, compare(a, b, rules))
            for (one, a), (other, b) in itertools.combinations(known.people.items() if known else (), 2)
        ]
        differing = [(one, other, result.text) for one, other, result in compared if not result.agrees]
        if differing:
            found.append(Disagreement(row.device, row.key, row.model, differing))
    return found
