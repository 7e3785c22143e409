"""The labelling queue: what to ask people next, what they said, and what of it counts."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, exists, func, insert, literal, or_, select, tuple_, update

from edgeloop_contract.errors import DataError
from edgeloop_contract.messages import MAX_RECORDINGS
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import bundles, labels, recordings, samples

MOST_LISTED = 10_000
FIRST_CHOSEN = 50
MOST_SPREAD = 2000  # open samples that are put in order
PAGE_BYTES = 16 << 20  # of samples' data in one answer
SHOWN = (
    "device", "key", "taken", "kind", "random", "model", "sha256", "recording", "window", "guess", "confidence", "value", "label",
    "truth",
)  # fmt: skip


def waiting(connection: Connection, model: str, person: str, limit: int, without: Iterable[str] = ()) -> list[dict[str, Any]]:
    """One sample of each group that still needs this person's label, with the group's size (`alike`) and how many of its recording
    have none (`together`): the most informative first, `spread`.

    Every fifth is one of the random ones, by lot, whenever and wherever it came: without them there would be no honest estimate of
    accuracy (`estimating`). After FIRST_CHOSEN of a model every second one is: what is least sure teaches the most at first, and is
    ever less like the rest.
    `without`: devices whose sensors are at fault; nobody's time is spent on theirs.
    """
    mine = select(labels.c.key).where(labels.c.device == samples.c.device, labels.c.key == samples.c.key, labels.c.person == person)
    head = samples.c.alike == samples.c.device + "/" + samples.c.key
    open_ones = and_(samples.c.labelled.is_(None), samples.c.skipped == 0, head, ~mine.exists())
    without = list(without)
    open_ones = and_(open_ones, samples.c.device.not_in(without))
    if model:
        open_ones = and_(open_ones, samples.c.model == model)
    columns = [samples.c[name] for name in SHOWN]
    ordered = select(*columns).where(open_ones).order_by(samples.c.value.desc(), samples.c.at)
    best = spread(connection.execute(ordered.limit(max(limit, MOST_SPREAD))).all())[:limit]
    drawn = _drawn(connection, columns, open_ones, model, without)[:limit]
    order: dict[tuple[str, str], Row[Any]] = {}
    chosen, random_ones, answered = iter(best), iter(drawn), _answered(connection, model)
    for number in range(answered, answered + len(best) + len(drawn)):
        turn = number % 5 == 2 if number < FIRST_CHOSEN else number % 2 == 1
        for queue in (random_ones, chosen) if turn else (chosen, random_ones):
            row = next((r for r in queue if (r.device, r.key) not in order), None)
            if row is not None:
                order[row.device, row.key] = row
                break
    found = list(order.values())[:limit]
    sizes, lengths = _sizes(connection, [f"{r.device}/{r.key}" for r in found]), _lengths(connection, found)
    return [
        {**r._mapping, "alike": sizes.get(f"{r.device}/{r.key}", 1), "together": lengths.get((r.device, r.recording, r.model), 1)}
        for r in found
    ]


def _drawn(connection: Connection, columns: list[Any], open_ones: Any, model: str, without: list[str]) -> list[Row[Any]]:
    """Random samples by lot, each by the head of its group: who labels these in this order, and all, labels a fair share."""
    members = select(samples.c.alike).where(
        samples.c.random == 1, samples.c.labelled.is_(None), samples.c.skipped == 0, samples.c.device.not_in(without)
    )
    if model:
        members = members.where(samples.c.model == model)
    heads = dict.fromkeys(connection.execute(members.order_by(samples.c.lot).limit(MOST_SPREAD)).scalars())
    places = [tuple(head.split("/", 1)) for head in heads]
    found = connection.execute(select(*columns).where(open_ones, tuple_(samples.c.device, samples.c.key).in_(places)))
    by_name = {f"{row.device}/{row.key}": row for row in found}
    return [by_name[head] for head in heads if head in by_name]


def spread(rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """No recording twice before each had its turn, nor a device's guess of one label before its others; else as they come.

    The least sure samples are often of one kind, or of one hard recording: fifty of those teach less than fifty of everything.
    """
    recordings: Counter[tuple[str, str]] = Counter()
    guesses: Counter[tuple[int, str, str]] = Counter()
    turns = []
    for row in rows:
        recording = (row.device, row.recording or row.key)
        turn = recordings[recording]
        recordings[recording] += 1
        guess = (turn, row.device, row.guess)
        turns.append((turn, guesses[guess], row))
        guesses[guess] += 1
    return [row for _, _, row in sorted(turns, key=lambda t: t[:2])]


def _answered(connection: Connection, model: str) -> int:
    """Samples of the model, or of all, that people have said something of."""
    theirs = select(labels.c.device, labels.c.key).where(labels.c.person != "device").distinct()
    if model:
        mine = and_(samples.c.device == labels.c.device, samples.c.key == labels.c.key)
        theirs = theirs.join(samples, mine).where(samples.c.model == model)
    return int(connection.execute(select(func.count()).select_from(theirs.subquery())).scalar_one())


def _sizes(connection: Connection, heads: list[str]) -> dict[str, int]:
    rows = connection.execute(
        select(samples.c.alike, func.count().label("size"))
        .where(samples.c.alike.in_(heads), samples.c.labelled.is_(None))
        .group_by(samples.c.alike)
    )
    return {row.alike: int(row.size) for row in rows}


def _lengths(connection: Connection, rows: Sequence[Row[Any]]) -> dict[tuple[str, str, str], int]:
    """Samples without a label of each one's recording."""
    place = (samples.c.device, samples.c.recording, samples.c.model)
    names, models = {r.recording for r in rows} - {""}, {r.model for r in rows}
    mine = and_(samples.c.labelled.is_(None), samples.c.model.in_(models), samples.c.recording.in_(names))
    return {(r[0], r[1], r[2]): int(r[3]) for r in connection.execute(select(*place, func.count()).where(mine).group_by(*place))}


def names_of(connection: Connection, model: str) -> list[str]:
    """The labels that the model's newest bundle knows."""
    row = connection.execute(
        select(bundles.c.about).where(bundles.c.model == model).order_by(bundles.c.version.desc()).limit(1)
    ).scalar()
    found: list[str] = json.loads(row).get("labels", []) if row else []
    return found


def label(connection: Connection, device: str, key: str, person: str, name: str, settings: Settings, whole: bool = False) -> int:
    """One person's label; returns how many samples are settled by it: those alike too, once enough people agree.

    `whole`: the person says it of every sample of that recording, and it counts as if each had been asked about: also of those
    that are yet to come, and the device is asked for them.
    Raises DataError where there is no such sample, or the model knows no such label.
    """
    row = connection.execute(
        select(samples.c.model, samples.c.recording).where(samples.c.device == device, samples.c.key == key)
    ).first()
    if row is None:
        raise DataError(f"there is no sample {device}/{key}")
    known = names_of(connection, row.model)
    if known and name not in known:
        raise DataError(f"{row.model} knows no label {name[:100]!r}; there is {', '.join(known)}")
    keys = [key]
    if whole and row.recording:
        together = and_(samples.c.device == device, samples.c.recording == row.recording, samples.c.model == row.model)
        before = said_of(connection, device, row.recording, row.model).get(person, "")  # what they said of it before
        mine = and_(labels.c.device == samples.c.device, labels.c.key == samples.c.key, labels.c.person == person)
        taken_back = exists().where(mine, labels.c.label == before)
        others = select(samples.c.key).where(together, or_(samples.c.labelled.is_(None), taken_back), samples.c.key != key)
        keys += connection.execute(others).scalars()
        _said_of(connection, device, row.recording, row.model, person, name)
    return sum(_said(connection, device, one, person, name, settings) for one in keys)


def _said_of(connection: Connection, device: str, recording: str, model: str, person: str, name: str) -> None:
    """Remember what a person said of a whole recording."""
    this = and_(recordings.c.device == device, recordings.c.recording == recording, recordings.c.model == model)
    released = connection.execute(select(func.max(recordings.c.released)).where(this)).scalar()
    connection.execute(delete(recordings).where(this, recordings.c.person == person))
    connection.execute(
        insert(recordings).values(
            device=device, recording=recording, model=model, person=person, label=name, at=time.time(), released=released
        )
    )


def said_of(connection: Connection, device: str, recording: str, model: str) -> dict[str, str]:
    """What each person said of the whole recording."""
    this = and_(recordings.c.device == device, recordings.c.recording == recording, recordings.c.model == model)
    return {row.person: row.label for row in connection.execute(select(recordings).where(this).order_by(recordings.c.at))}


def label_arrived(connection: Connection, device: str, key: str, said: dict[str, str], settings: Settings) -> None:
    """A sample of a recording of which people `said` already what all of it is."""
    for person, name in said.items():
        _said(connection, device, key, person, name, settings)


def wanted(connection: Connection, device: str, settings: Settings) -> list[str]:
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


def note_released(connection: Connection, device: str, names: list[str]) -> None:
    """The device holds nothing of these recordings back any more."""
    mine = and_(recordings.c.device == device, recordings.c.recording.in_(names), recordings.c.released.is_(None))
    connection.execute(update(recordings).where(mine).values(released=time.time()))


def told(connection: Connection, model: str) -> list[dict[str, Any]]:
    """What people said of whole recordings, oldest first, and when the device released the rest of each."""
    rows = select(recordings).order_by(recordings.c.at).limit(MOST_LISTED)
    return [dict(r._mapping) for r in connection.execute(rows.where(recordings.c.model == model) if model else rows)]


def _said(connection: Connection, device: str, key: str, person: str, name: str, settings: Settings) -> int:
    """Of one sample; how many are settled."""
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


def skip(connection: Connection, device: str, key: str) -> None:
    """Nobody can tell what it is: it is asked about no more, nor those alike."""
    this = and_(samples.c.device == device, samples.c.key == key)
    alike = and_(samples.c.alike == f"{device}/{key}", samples.c.labelled.is_(None))
    connection.execute(update(samples).where(or_(this, alike)).values(skipped=1))


def find(connection: Connection, device: str, key: str) -> Any:
    return connection.execute(select(samples).where(samples.c.device == device, samples.c.key == key)).first()


def listed(connection: Connection, model: str, state: str) -> list[dict[str, Any]]:
    """Samples without their data: "open", "labelled" or "all"; with who labelled them."""
    rows = select(*(samples.c[name] for name in SHOWN)).order_by(samples.c.at)
    rows = _of_model(rows, model)
    if state != "all":
        rows = rows.where(samples.c.labelled.is_(None) if state == "open" else samples.c.labelled.is_not(None))
    found = [dict(r._mapping) for r in connection.execute(rows.limit(MOST_LISTED))]
    said: dict[tuple[str, str], list[str]] = {}
    for row in connection.execute(select(labels.c.device, labels.c.key, labels.c.person)):
        said.setdefault((row.device, row.key), []).append(row.person)
    return [{**f, "people": said.get((f["device"], f["key"]), [])} for f in found]


def _of_model(rows: Select[Any], model: str) -> Select[Any]:
    return rows.where(samples.c.model == model) if model else rows


def labelled_after(connection: Connection, model: str, after: tuple[float, str, str], limit: int) -> list[Any]:
    """Whole labelled samples in the order in which they were labelled, behind the place `after`: a page for retraining.

    `said`: somebody labelled this very one, and not one like it.
    """
    place = tuple_(samples.c.labelled, samples.c.device, samples.c.key)
    said = exists().where(labels.c.device == samples.c.device, labels.c.key == samples.c.key).label("said")
    rows = select(samples, said).where(samples.c.model == model, samples.c.label.is_not(None), place > tuple_(*after))
    return _page(connection, rows.order_by(samples.c.labelled, samples.c.device, samples.c.key).limit(limit))


def open_before(connection: Connection, model: str, before: tuple[float, str, str], limit: int) -> list[Any]:
    """Whole samples that nobody labelled nor gave up, the newest first, older than the place `before`: a page of them."""
    place = tuple_(samples.c.at, samples.c.device, samples.c.key)
    said = literal(False).label("said")
    rows = select(samples, said).where(samples.c.model == model, samples.c.labelled.is_(None), samples.c.skipped == 0)
    newest = (samples.c.at.desc(), samples.c.device.desc(), samples.c.key.desc())
    return _page(connection, rows.where(place < tuple_(*before)).order_by(*newest).limit(limit))


def _page(connection: Connection, rows: Select[Any]) -> list[Any]:
    """Of the rows at least one, however large; then as many as fit into PAGE_BYTES."""
    page: list[Any] = []
    size = 0
    with connection.execute(rows) as found:
        for row in found:
            size += len(row.data)
            if page and size > PAGE_BYTES:
                break
            page.append(row)
    return page


def forget_old(connection: Connection, unlabelled_before: float, before: float) -> None:
    connection.execute(delete(samples).where(samples.c.at < unlabelled_before, samples.c.labelled.is_(None)))
    connection.execute(delete(samples).where(samples.c.at < before))
    connection.execute(delete(recordings).where(recordings.c.at < before))
    there = select(samples.c.key).where(samples.c.device == labels.c.device, samples.c.key == labels.c.key)
    connection.execute(delete(labels).where(~there.exists()))
