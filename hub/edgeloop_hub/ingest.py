"""Samples that devices send: checked, stored once, under a quota; near-duplicates find each other."""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter

import msgspec
import numpy as np
from sqlalchemy import Connection, func, insert, select

from edgeloop_contract.errors import DataError
from edgeloop_contract.messages import Sample, Samples
from edgeloop_hub import estimating, fleet, labelling
from edgeloop_hub.people import Device
from edgeloop_hub.schema import labels, samples
from edgeloop_hub.settings import Settings

DAY = 86400.0
COMPARED = 300  # open samples of the model that a new one may resemble
ALIKE = 0.15  # root mean square distance of standardised features below which one label serves both
ALIKE_TOGETHER = 1.0  # of one recording, with the same guess: what moves or sounds so for a while goes on doing it
ITEM_BYTES = {"uint8": 1, "int8": 1, "int16": 2, "float32": 4}
MOST_VALUES = 16 << 20  # bytes of one sample, unpacked


def decode(body: bytes) -> Samples:
    """Raises DataError."""
    try:
        return msgspec.msgpack.decode(body, type=Samples)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not an upload of samples ({error})") from error


def store(connection: Connection, device: Device, upload: Samples, settings: Settings) -> bool:
    """Keep an upload, each sample once. False: over the device's quota of this day. Raises DataError, and keeps nothing then."""
    now = time.time()
    used = connection.execute(
        select(func.coalesce(func.sum(func.length(samples.c.data)), 0)).where(
            samples.c.device == device.name, samples.c.at > now - DAY
        )
    ).scalar_one()
    if used + sum(len(s.data) for s in upload.samples) > settings.sample_bytes_per_day:
        return False
    known = set(
        connection.execute(
            select(samples.c.key).where(samples.c.device == device.name, samples.c.key.in_([s.key for s in upload.samples]))
        ).scalars()
    )
    for event in upload.events:
        fleet.note_of_device(connection, device.name, event, now)
    if upload.released:
        labelling.note_released(connection, device.name, upload.released)
    open_ones, said_of = _Open(connection), dict[tuple[str, str], dict[str, str]]()
    for sample in upload.samples:
        check(sample)
        if sample.key in known:
            continue
        known.add(sample.key)
        name, place = f"{device.name}/{sample.key}", (sample.recording, sample.model)
        if place not in said_of:
            said_of[place] = labelling.said_of(connection, device.name, *place) if sample.recording else {}
        said = said_of[place]
        settled = sample.truth or max(Counter(said.values()).values(), default=0) >= settings.labels_needed
        alike = name if settled else open_ones.like(sample, name)  # what is settled is no group's head: it is never asked about
        connection.execute(
            insert(samples).values(
                device=device.name, key=sample.key, at=now, taken=min(sample.at, now), kind=sample.kind, random=int(sample.random),
                model=sample.model, sha256=sample.sha256, recording=sample.recording, window=sample.window, guess=sample.guess,
                confidence=sample.confidence, value=sample.value, features=json.dumps(sample.features), alike=alike,
                dtype=sample.dtype, shape=json.dumps(sample.shape), data=sample.data, label=sample.truth or None,
                labelled=now if sample.truth else None, skipped=0, lot=estimating.lot(device.name, sample.key),
            )
        )  # fmt: skip
        if sample.truth:
            connection.execute(
                insert(labels).values(device=device.name, key=sample.key, person="device", label=sample.truth, at=now)
            )
        else:
            labelling.label_arrived(connection, device.name, sample.key, said, settings)
    return True


def check(sample: Sample) -> None:
    """Raises DataError unless the bytes are just what type and shape say; a bomb is not unpacked."""
    size = ITEM_BYTES[sample.dtype]
    if not sample.shape:
        raise DataError(f"sample {sample.key}: it has no shape")
    for n in sample.shape:
        size *= n
    if size > MOST_VALUES:
        raise DataError(f"sample {sample.key}: {size} bytes unpacked; the limit is {MOST_VALUES}")
    unpacked = zlib.decompressobj()
    try:
        found = len(unpacked.decompress(sample.data, size + 1))
    except zlib.error as error:
        raise DataError(f"sample {sample.key}: its data are damaged ({error})") from error
    if found != size or not unpacked.eof:
        raise DataError(f"sample {sample.key}: its data are not {sample.shape} of {sample.dtype}")
    if not all(np.isfinite(sample.features)):
        raise DataError(f"sample {sample.key}: a feature is not finite")


class _Open:
    """Samples that wait for a label, one of each group, newest first: read when first asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._by_model: dict[tuple[str, str], list[tuple[str, str, list[float]]]] = {}

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
            group = [(r.alike, f"{r.device}/{r.recording}", json.loads(r.features)) for r in heads]
            self._by_model[sample.model, sample.guess] = group
        near = [row for row in group if len(row[2]) == len(sample.features)]
        if sample.features and near:
            distances = np.sqrt(((np.array([f for _, _, f in near]) - sample.features) ** 2).mean(axis=1))
            distances /= [ALIKE_TOGETHER if other == recording and not sample.random else ALIKE for _, other, _ in near]
            best = int(distances.argmin())
            if distances[best] < 1:
                return near[best][0]
        group.append((name, recording, list(sample.features)))
        return name
