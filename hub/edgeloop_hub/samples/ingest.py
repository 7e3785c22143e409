"""Samples that devices send: checked, stored once, under a quota, grouped with near-duplicates."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator

import msgspec
import numpy as np
from sqlalchemy import Connection, func, insert, select

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_contract.hub_messages import BundleSummary
from edgeloop_contract.messages import NamedArray, Sample, Samples
from edgeloop_hub import event_log
from edgeloop_hub.auth import quota
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.samples import accuracy, annotating, labelling
from edgeloop_hub.samples.annotation_check import part_of
from edgeloop_hub.settings import Settings
from edgeloop_hub.storage.schema import annotated_samples, sample_inputs, samples
from edgeloop_hub.updates import registry

DAY = 86400.0
COMPARED = 300  # open samples of the model that a new one may resemble
ALIKE = 0.15  # root mean square distance of standardised features below which one label serves both
ALIKE_TOGETHER = 1.0  # the same within one recording and prediction, where neighbours resemble each other
LOT = 20  # samples that one transaction stores
CHUNK = 256 << 10  # bytes that are unpacked at a time
MAX_VALUES = 16 << 20  # bytes of one sample, unpacked


def decode(body: bytes) -> Samples:
    """An upload, from MessagePack. Raises DataError."""
    try:
        return msgspec.msgpack.decode(body, type=Samples)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not an upload of samples ({error})") from error


def admit(connection: Connection, device: EnrolledDevice, upload: Samples, settings: Settings) -> bool:
    """Whether the device may send so much, before anything is unpacked. It is counted, so that a refused upload costs quota too.

    False: over its quota of this day, or of messages, rows and bytes of this hour.
    """
    if not has_room(connection, device, upload, settings):
        return False
    return quota.charge(connection, device, settings, time.time(), rows=len(upload.events), size=quota.encoded_bytes(upload.events))


def has_room(connection: Connection, device: EnrolledDevice, upload: Samples, settings: Settings) -> bool:
    """Whether this day's samples leave room for these."""
    unpacked = sum(unpacked_bytes(sample) for sample in upload.samples)
    since = time.time() - DAY
    sums = (func.coalesce(func.sum(func.length(samples.c.data)), 0), func.coalesce(func.sum(samples.c.unpacked), 0))
    row = connection.execute(select(*sums).where(samples.c.device == device.name, samples.c.at > since)).one()
    mine = (sample_inputs.c.device == device.name, sample_inputs.c.at > since)
    others = connection.execute(select(func.coalesce(func.sum(func.length(sample_inputs.c.others)), 0)).where(*mine)).scalar_one()
    kept = annotated_samples
    answers = select(func.coalesce(func.sum(func.length(kept.c.answer)), 0)).where(kept.c.device == device.name, kept.c.at > since)
    others += connection.execute(answers).scalar_one()
    answered = sum(len(msgspec.msgpack.encode(s.answer)) for s in upload.samples if s.answer is not None)
    new = answered + sum(len(each.data) for s in upload.samples for each in s.inputs)
    return bool(
        row[0] + others + new <= settings.sample_bytes_per_day and row[1] + unpacked <= settings.sample_unpacked_bytes_per_day
    )


def answers(connection: Connection, upload: Samples) -> dict[str, bytes]:
    """Models' answers to keep, by the sample's key: checked before the transaction that stores them, as masks take their time."""
    bundles: dict[str, BundleSummary] = {}
    found: dict[str, bytes] = {}
    for sample in upload.samples:
        if sample.answer is not None:
            if sample.model not in bundles:
                bundles[sample.model] = registry.newest(connection, sample.model)
            if (body := annotating.answer_bytes(sample, bundles[sample.model])) is not None:
                found[sample.key] = body
    return found


def lots(upload: Samples) -> Iterator[Samples]:
    """An upload as parts, each for a transaction of its own: others write in between. Sent again, what is stored is passed over."""
    yield msgspec.structs.replace(upload, samples=upload.samples[:LOT])
    for begin in range(LOT, len(upload.samples), LOT):
        yield Samples(samples=upload.samples[begin : begin + LOT])


def store(
    connection: Connection, device: EnrolledDevice, upload: Samples, settings: Settings, checked: dict[str, bytes] | None = None
) -> bool:
    """Keep an upload that was admitted and checked, each sample once. False: over a quota, and nothing is kept.

    `checked`: its `answers`; None: they are checked here.
    """
    now, checked = time.time(), answers(connection, upload) if checked is None else checked
    if not has_room(connection, device, upload, settings):
        return False
    known = set(
        connection.execute(
            select(samples.c.key).where(samples.c.device == device.name, samples.c.key.in_([s.key for s in upload.samples]))
        ).scalars()
    )
    event_log.record_of_device(connection, device.name, upload.events, now)
    if upload.released:
        labelling.mark_released(connection, device.name, upload.released)
    open_ones, by_person = _OpenSamples(connection), dict[tuple[str, str], dict[str, str]]()
    bundles = dict[str, BundleSummary]()
    for sample in upload.samples:
        if sample.key in known:
            continue
        known.add(sample.key)
        name, place = f"{device.name}/{sample.key}", (sample.recording, sample.model)
        if place not in by_person:
            by_person[place] = labelling.of_recording(connection, device.name, *place) if sample.recording else {}
        given = by_person[place]
        if sample.model not in bundles:
            bundles[sample.model] = registry.newest(connection, sample.model)
        bundle = bundles[sample.model]
        one_label = not part_of(bundle, sample.answer)
        truth = sample.truth if one_label and (not bundle.labels or sample.truth in bundle.labels) else ""
        settled = bool(truth) or max(Counter(given.values()).values(), default=0) >= settings.labels_needed
        alike = (
            name if settled else open_ones.like(sample, name)
        )  # people are not asked about a settled sample, so it heads no group
        connection.execute(
            insert(samples).values(
                device=device.name, key=sample.key, at=now, taken=min(sample.at, now), kind=sample.kind, random=int(sample.random),
                model=sample.model, sha256=sample.sha256, recording=sample.recording, window=sample.window, guess=sample.guess,
                confidence=sample.confidence, value=sample.value, features=json.dumps(sample.features), alike=alike,
                dtype=sample.dtype, shape=json.dumps(sample.shape), data=sample.data, unpacked=unpacked_bytes(sample),
                truth=sample.truth, label=truth or None, labelled=now if truth else None, skipped=0,
                lot=accuracy.lot(device.name, sample.key),
            )
        )  # fmt: skip
        if sample.others:
            parts = {"input": sample.input, "others": msgspec.msgpack.encode(sample.others)}
            connection.execute(insert(sample_inputs).values(device=device.name, key=sample.key, at=now, **parts))
        if (answer := checked.get(sample.key)) is not None:
            annotating.keep_answer(connection, device.name, sample.key, now, answer)
        labelling.label_arrived(connection, device.name, sample.key, given, settings)
    return True


def unpacked_bytes(sample: Sample) -> int:
    """Bytes of a sample's values, by the type and shape of each input. Raises DataError for none, or too many."""
    parts = sample.inputs
    if not all(part.shape for part in parts):
        raise DataError(f"sample {sample.key}: it has no shape")
    names = [part.name for part in parts]
    if len(names) > 1 and (len(set(names)) < len(names) or "" in names):
        raise DataError(f"sample {sample.key}: two of its inputs have one name, or one has none")
    size = sum(map(_bytes_of, parts))
    if size > MAX_VALUES:
        raise DataError(f"sample {sample.key}: {size} bytes unpacked; the limit is {MAX_VALUES}")
    return size


def _bytes_of(part: NamedArray) -> int:
    return math.prod(part.shape) * np.dtype(part.dtype).itemsize


def check_sizes(upload: Samples, settings: Settings) -> None:
    """Check the sizes that the samples state. Raises DataError for what no quota would allow."""
    unpacked = sum(unpacked_bytes(sample) for sample in upload.samples)
    if unpacked > settings.max_unpacked_bytes:
        raise DataError(f"{unpacked} bytes unpacked; an upload may have {settings.max_unpacked_bytes}: send it in several")


def check_all(upload: Samples) -> None:
    """Unpack and check everything, before the database is written to, so that nobody waits for it. Raises DataError."""
    for sample in upload.samples:
        check(sample)


def check(sample: Sample) -> None:
    """Raises DataError unless the bytes are just what type and shape say. A decompression bomb is neither unpacked nor held."""
    unpacked_bytes(sample)
    for part in sample.inputs:
        _check_part(sample.key, part)


def _check_part(key: str, part: NamedArray) -> None:
    expected, size, unpacked = _bytes_of(part), 0, zlib.decompressobj()
    rest, kind = part.data, np.dtype(part.dtype).newbyteorder("<")
    try:
        while not unpacked.eof and size <= expected:
            chunk = unpacked.decompress(rest, CHUNK)
            rest = unpacked.unconsumed_tail
            if not chunk:
                break
            whole = len(chunk) // kind.itemsize * kind.itemsize
            if kind.kind == "f" and not np.isfinite(np.frombuffer(chunk[:whole], kind)).all():
                raise DataError(f"sample {key}: a value is not finite")
            size += len(chunk)
    except zlib.error as error:
        raise DataError(f"sample {key}: its data are damaged ({error})") from error
    if size != expected or not unpacked.eof or unpacked.unused_data:
        raise DataError(f"sample {key}: its data are not {part.shape} of {part.dtype}")


class _OpenSamples:
    """Samples that wait for a label, one of each group, newest first: read when first asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._by_model: dict[tuple[str, str], deque[tuple[str, str, Array]]] = {}

    def like(self, sample: Sample, name: str) -> str:
        """The group that the sample belongs to: its own name where there is none.

        One drawn at random is asked about itself, near-duplicates apart: accuracy is estimated from what people said of those.
        """
        recording = f"{name.partition('/')[0]}/{sample.recording}" if sample.recording else name
        group = self._by_model.get((sample.model, sample.guess))
        if group is None:
            rows = self._connection.execute(
                select(samples.c.device, samples.c.key, samples.c.alike, samples.c.recording, samples.c.features)
                .where(samples.c.model == sample.model, samples.c.guess == sample.guess)
                .where(samples.c.labelled.is_(None), samples.c.skipped == 0)  # nobody is asked about what is like a skipped one
                .order_by(samples.c.at.desc())
                .limit(COMPARED)
            )
            heads = [r for r in rows if r.alike == f"{r.device}/{r.key}"]
            known = [(r.alike, f"{r.device}/{r.recording}", np.array(json.loads(r.features), float)) for r in heads]
            group = deque(reversed(known), COMPARED)  # the oldest makes room for a new one
            self._by_model[sample.model, sample.guess] = group
        near = [row for row in group if len(row[2]) == len(sample.features)]
        if sample.features and near:
            distances = np.sqrt(((np.stack([f for _, _, f in near]) - np.array(sample.features)) ** 2).mean(axis=1))
            distances /= [ALIKE_TOGETHER if other == recording and not sample.random else ALIKE for _, other, _ in near]
            best = int(distances.argmin())
            if distances[best] < 1:
                return near[best][0]
        group.append((name, recording, np.array(sample.features, float)))
        return name
