"""The labelling queue: which sample to ask people about next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Row, and_, func, select, tuple_

from edgeloop_contract.sample_messages import QueuedSample
from edgeloop_hub.samples.sample_store import SUMMARY_COLUMNS, summary_fields
from edgeloop_hub.storage.schema import labels, personal_annotations, samples

FIRST_CHOSEN = 50
MAX_SPREAD = 2000  # open samples that are put in order


class Asked(Protocol):
    """What `spread` looks at."""

    @property
    def device(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def recording(self) -> str: ...
    @property
    def guess(self) -> str: ...


A = TypeVar("A", bound=Asked)


def waiting(connection: Connection, model: str, person: str, limit: int, excluded: Iterable[str] = ()) -> list[QueuedSample]:
    """One sample of each group that still needs this person's label, the most informative first, `spread`.

    Every fifth sample is a random one, by lot, whenever and wherever it came: without them there is no honest estimate of accuracy
    (`accuracy.drawn`). After FIRST_CHOSEN labels of a model every second one is: the least confident samples teach most at first,
    and resemble the others less and less.
    `excluded`: devices whose sensors are at fault; nobody's time is spent on their samples.
    """
    mine, mine_too = (
        select(said.c.key).where(said.c.device == samples.c.device, said.c.key == samples.c.key, said.c.person == person)
        for said in (labels, personal_annotations)
    )
    head = samples.c.alike == samples.c.device + "/" + samples.c.key
    open_ones = and_(samples.c.labelled.is_(None), samples.c.skipped == 0, head, ~mine.exists(), ~mine_too.exists())
    excluded = list(excluded)
    open_ones = and_(open_ones, samples.c.device.not_in(excluded))
    if model:
        open_ones = and_(open_ones, samples.c.model == model)
    ordered = select(*SUMMARY_COLUMNS).where(open_ones).order_by(samples.c.value.desc(), samples.c.at)
    best = spread(connection.execute(ordered.limit(max(limit, MAX_SPREAD))).all())[:limit]
    drawn = _drawn(connection, open_ones, model, excluded)[:limit]
    rows = _interleaved(best, drawn, _answered(connection, model))[:limit]
    sizes, lengths = _group_sizes(connection, [f"{r.device}/{r.key}" for r in rows]), _recording_lengths(connection, rows)
    return [
        QueuedSample(
            **summary_fields(row),
            alike=sizes.get(f"{row.device}/{row.key}", 1),
            together=lengths.get((row.device, row.recording, row.model), 1),
        )
        for row in rows
    ]


def _interleaved(best: Sequence[Row[Any]], drawn: Sequence[Row[Any]], answered: int) -> list[Row[Any]]:
    """The best ones, with a random one at every fifth place, or at every second one after FIRST_CHOSEN answers."""
    order: dict[tuple[str, str], Row[Any]] = {}
    chosen, random_ones = iter(best), iter(drawn)
    for number in range(answered, answered + len(best) + len(drawn)):
        is_random = number % 5 == 2 if number < FIRST_CHOSEN else number % 2 == 1
        for queue in (random_ones, chosen) if is_random else (chosen, random_ones):
            row = next((r for r in queue if (r.device, r.key) not in order), None)
            if row is not None:
                order[row.device, row.key] = row
                break
    return list(order.values())


def _drawn(connection: Connection, open_ones: Any, model: str, excluded: list[str]) -> list[Row[Any]]:
    """Random samples by lot, each by the head of its group: all of these labelled in this order are a fair share."""
    members = select(samples.c.alike).where(
        samples.c.random == 1, samples.c.labelled.is_(None), samples.c.skipped == 0, samples.c.device.not_in(excluded)
    )
    if model:
        members = members.where(samples.c.model == model)
    heads = dict.fromkeys(connection.execute(members.order_by(samples.c.lot).limit(MAX_SPREAD)).scalars())
    places = [tuple(head.split("/", 1)) for head in heads]
    rows = connection.execute(select(*SUMMARY_COLUMNS).where(open_ones, tuple_(samples.c.device, samples.c.key).in_(places)))
    by_name = {f"{row.device}/{row.key}": row for row in rows}
    return [by_name[head] for head in heads if head in by_name]


def spread(rows: Sequence[A]) -> list[A]:
    """Rows in rounds: in each round no recording twice, and other predictions of a device first; else as they come.

    The least confident samples are often of one kind, or of one hard recording: fifty of those teach less than fifty of everything.
    """
    recordings: Counter[tuple[str, str]] = Counter()
    predictions: Counter[tuple[int, str, str]] = Counter()
    ranked = []
    for row in rows:
        recording = (row.device, row.recording or row.key)
        round_number = recordings[recording]
        recordings[recording] += 1
        prediction = (round_number, row.device, row.guess)
        ranked.append((round_number, predictions[prediction], row))
        predictions[prediction] += 1
    return [row for _, _, row in sorted(ranked, key=lambda r: r[:2])]


def _answered(connection: Connection, model: str) -> int:
    """How many samples of the model, or of all, people have labelled."""
    count = 0
    for table in (labels, personal_annotations):
        by_people = select(table.c.device, table.c.key).where(table.c.person != "device").distinct()
        if model:
            mine = and_(samples.c.device == table.c.device, samples.c.key == table.c.key)
            by_people = by_people.join(samples, mine).where(samples.c.model == model)
        count += int(connection.execute(select(func.count()).select_from(by_people.subquery())).scalar_one())
    return count


def _group_sizes(connection: Connection, heads: list[str]) -> dict[str, int]:
    rows = connection.execute(
        select(samples.c.alike, func.count().label("size"))
        .where(samples.c.alike.in_(heads), samples.c.labelled.is_(None))
        .group_by(samples.c.alike)
    )
    return {row.alike: int(row.size) for row in rows}


def _recording_lengths(connection: Connection, rows: Sequence[Row[Any]]) -> dict[tuple[str, str, str], int]:
    """Unlabelled samples of each row's recording, by device, recording and model."""
    place = (samples.c.device, samples.c.recording, samples.c.model)
    names, models = {r.recording for r in rows} - {""}, {r.model for r in rows}
    mine = and_(samples.c.labelled.is_(None), samples.c.model.in_(models), samples.c.recording.in_(names))
    return {(r[0], r[1], r[2]): int(r[3]) for r in connection.execute(select(*place, func.count()).where(mine).group_by(*place))}
