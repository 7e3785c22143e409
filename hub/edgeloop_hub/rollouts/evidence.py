"""What a rollout's gates judge by: who failed, and the sums of each device's reports.

The hub believes no claim of a device beyond what the time allows, and reads no more than a tick has room for.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
from sqlalchemy import Connection, Row, func, insert, select

from edgeloop_contract.messages import Heartbeat
from edgeloop_hub.drift.reports import faulty
from edgeloop_hub.rollouts.device_evidence import ByDevice, DeviceEvidence
from edgeloop_hub.rollouts.policy import OPEN, Rollout
from edgeloop_hub.samples import accuracy
from edgeloop_hub.storage.deletion import Old
from edgeloop_hub.storage.many_rows import Changes, read_in_parts, update_rows
from edgeloop_hub.storage.schema import bundles, events, heartbeats, rollout_evidence, rollouts

HOUR = 3600.0
MAX_BUNDLES = 4  # of one device, in one rollout
OTHER = "others"  # the label of all answers beyond MAX_KEPT_LABELS labels, and of labels that the bundle does not have
FAILED = ("failed", "rolled-back")
MAX_REPORTS = 500_000  # of the newest that one comparison reads
USUAL_POLL_SECONDS = 300.0
MIN_WINDOW_SECONDS = HOUR
DEVICES_PER_QUERY = 500  # devices that one query names
ROWS_AT_ONCE = 10_000  # of sums: as many texts are held beside what they say
MAX_ANSWERS_PER_SECOND = 10_000  # that a device is believed
MAX_KEPT_LABELS = 100  # of one device's sums: a bundle with more has that many groups of labels, the same on each device
MAX_BODY_BYTES = 32_768  # of a report that only a forecast reads
MAX_CRASHES_PER_HOUR, FIRST_CRASHES = 60.0, 8.0  # the agent waits a minute between restarts, after the first few


def failures(connection: Connection, rollout: Rollout, names: Iterable[str]) -> set[str]:
    """Devices that refused the bundle or gave it back since the rollout began."""
    began = select(rollouts.c.began).where(rollouts.c.id == rollout.id).scalar_subquery()
    rows = select(events.c.source).where(events.c.target == rollout.target, events.c.kind.in_(FAILED), events.c.at >= began - 1)
    return {row.source for row in connection.execute(rows.distinct())} & set(names)


_EVIDENCE = msgspec.json.Decoder(DeviceEvidence)


class Told(NamedTuple):
    """A heartbeat of a device, of one of its bundles."""

    device: str
    channel: str
    beat: Heartbeat


def keep(connection: Connection, told: Sequence[Told]) -> None:
    """Add reports to what open rollouts of their models know of their devices, so that no tick reads reports again."""
    told = [one for one in told if one.beat.sha256]
    if not told:
        return
    columns = (rollouts.c.id, rollouts.c.channel, rollouts.c.model, bundles.c.about)
    query = select(*columns).join(bundles, bundles.c.target == rollouts.c.target)
    mine = (rollouts.c.state.in_(OPEN), rollouts.c.model.in_({one.beat.model for one in told}))
    open_ones = connection.execute(query.where(*mine)).all()
    if not open_ones:
        return
    kept = _kept_rows(connection, [row.id for row in open_ones], {one.device for one in told})
    new, changed = list[dict[str, Any]](), list[dict[str, Any]]()
    for one in told:
        for rollout in open_ones:
            if (rollout.channel, rollout.model) != (one.channel, one.beat.model):
                continue
            rows = kept.get((rollout.id, one.device), {})
            row = rows.get(one.beat.sha256[:64])
            if row is None and len(rows) >= MAX_BUNDLES:
                continue  # a device that says something else each time
            sums = (_decoded(row.body) if row is not None else None) or DeviceEvidence()
            crashes = max(0, one.beat.crashes - row.crashes) if row is not None else 0
            add(sums, grouped(one.beat, names_of(rollout.about)), crashes)
            key = {"rollout": rollout.id, "device": one.device, "sha256": one.beat.sha256[:64]}
            values = {"crashes": min(one.beat.crashes, 2**53), "body": msgspec.json.encode(sums).decode()}
            (new if row is None else changed).append({**key, **values})
    if new:
        connection.execute(insert(rollout_evidence), new)
    update_rows(connection, Changes(rollout_evidence, ("rollout", "device", "sha256"), changed))


def _kept_rows(connection: Connection, numbers: list[int], names: set[str]) -> dict[tuple[int, str], dict[str, Row[Any]]]:
    """By rollout and device, then by the bundle's digest."""
    here = (rollout_evidence.c.rollout.in_(numbers), rollout_evidence.c.device.in_(names))
    found: dict[tuple[int, str], dict[str, Row[Any]]] = {}
    for row in connection.execute(select(rollout_evidence).where(*here)):
        found.setdefault((row.rollout, row.device), {})[row.sha256] = row
    return found


@lru_cache(64)
def names_of(about: str) -> frozenset[str]:
    """The labels of a bundle; empty where the registry knows none."""
    try:
        return frozenset(msgspec.json.decode(about, type=_Labels).labels)
    except msgspec.MsgspecError:
        return frozenset()


class _Labels(msgspec.Struct):
    labels: list[str] = []


def grouped(beat: Heartbeat, known: frozenset[str]) -> Heartbeat:
    """With labels whose number is bounded whatever a device makes up, and which are the same ones on each device."""
    if not known or not beat.labels:
        return beat
    counts: Counter[str] = Counter()
    for name, count in beat.labels.items():
        kept = name if name in known else OTHER
        if len(known) > MAX_KEPT_LABELS and kept != OTHER:
            kept = f"group {crc32(name.encode()) % MAX_KEPT_LABELS}"
        counts[kept] += count
    return msgspec.structs.replace(beat, labels=dict(counts))


def begin(connection: Connection, number: int) -> None:
    """Reports are added up for this rollout, from now on."""
    connection.execute(insert(rollout_evidence).values(rollout=number, device="", sha256="", crashes=0, body=""))


def kept(connection: Connection, rollout: Rollout) -> dict[str, ByDevice] | None:
    """What was added up since the rollout began, by bundle's digest and device; None for one that began with an earlier release."""
    r = rollout_evidence.c
    if connection.execute(select(r.device).where(r.rollout == rollout.id, r.device == "")).first() is None:
        return None
    query, found = select(r.device, r.sha256, r.body).where(r.rollout == rollout.id, r.device != ""), dict[str, ByDevice]()
    rows: Iterable[Any] = read_in_parts(connection, query, [r.device, r.sha256], ROWS_AT_ONCE)
    for device, sha256, body in rows:
        if (sums := _decoded(body)) is not None:
            found.setdefault(sha256, {})[device] = sums
    return found


def _decoded(body: str) -> DeviceEvidence | None:
    try:
        return _EVIDENCE.decode(body)
    except msgspec.MsgspecError:  # of another release
        return None


def of_devices(connection: Connection, sums: dict[str, ByDevice], names: set[str], sha256s: set[str], began: float) -> ByDevice:
    """`sums` of these devices from these bundles. A device with several of them counts with the one that it ran longest."""
    chosen: ByDevice = {}
    for sha256 in sorted(sha256s & sums.keys()):
        for name, device in sums[sha256].items():
            if name in names and (name not in chosen or device.hours > chosen[name].hours):
                chosen[name] = device
    return _believed(connection, chosen, sha256s, began, time.time())


def unsummed_since(connection: Connection) -> float:
    """Since when single reports are needed: open rollouts that began with an earlier release are judged by them; else infinite."""
    summed = select(rollout_evidence.c.rollout).where(rollout_evidence.c.device == "")
    query = select(func.min(rollouts.c.began)).where(rollouts.c.state.in_(OPEN), rollouts.c.id.not_in(summed))
    began = connection.execute(query).scalar()
    return float(began) if began is not None else math.inf


def old(before: float) -> Old:
    """Sums of rollouts that ended and began long ago."""
    ended = select(rollouts.c.id).where(rollouts.c.state.not_in(OPEN), rollouts.c.began < before)
    return Old(rollout_evidence, rollout_evidence.c.rollout.in_(ended))


def since(connection: Connection, names: set[str], sha256s: set[str], begin: float, most: int = MAX_REPORTS) -> ByDevice:
    """Reports of these devices from these bundles since `begin`, added up by device: the newest `most`, where there are more."""
    now = time.time()
    if not names or not sha256s:
        return {}
    window = max(MIN_WINDOW_SECONDS, most * USUAL_POLL_SECONDS / len(names))
    begin = max(begin, now - window)
    by_device: ByDevice = {}
    later_crashes: dict[str, int] = {}
    for name, beat in _newest_first(connection, sorted(names), sha256s, begin, most):
        crashes = max(0, later_crashes.get(name, beat.crashes) - beat.crashes)
        add(by_device.setdefault(name, DeviceEvidence()), beat, crashes)
        later_crashes[name] = beat.crashes
    return _believed(connection, by_device, sha256s, begin, now)


def _believed(connection: Connection, by_device: ByDevice, sha256s: set[str], begin: float, now: float) -> ByDevice:
    """What the time since `begin` allows, with the labels that people gave."""
    for device in by_device.values():
        device.hours = min(device.hours, (now - begin) / HOUR + 1)
        device.crashes = min(device.crashes, FIRST_CRASHES + MAX_CRASHES_PER_HOUR * device.hours)
    for sample in accuracy.drawn(connection, sha256s, begin, faulty(connection)):
        if sample.device in by_device:
            by_device[sample.device].labelled += 1
            by_device[sample.device].right += sample.prediction == sample.label
    return dict(sorted(by_device.items()))


def _newest_first(
    connection: Connection, names: list[str], sha256s: set[str], begin: float, most: int
) -> Iterator[tuple[str, Heartbeat]]:
    """Each device's reports, in blocks of devices. Rows that today's rules cannot read are passed over."""
    share = 4 * most * DEVICES_PER_QUERY // max(len(names), DEVICES_PER_QUERY)
    columns = select(heartbeats.c.device, heartbeats.c.body).where(heartbeats.c.at >= begin, heartbeats.c.sha256.in_(sha256s))
    columns = columns if most == MAX_REPORTS else columns.where(func.length(heartbeats.c.body) <= MAX_BODY_BYTES)
    rest = iter(names)
    while block := list(islice(rest, DEVICES_PER_QUERY)):
        rows = columns.where(heartbeats.c.device.in_(block)).order_by(heartbeats.c.at.desc()).limit(share)
        for name, body in connection.execute(rows):
            beat = beat_of(body)
            if beat is not None:
                yield name, beat


def beat_of(body: str) -> Heartbeat | None:
    """A stored heartbeat; None where an earlier release stored something that is not one."""
    try:
        return msgspec.json.decode(body, type=Heartbeat)
    except (msgspec.MsgspecError, RecursionError):
        return None


def add(evidence: DeviceEvidence, beat: Heartbeat, crashes: int) -> None:
    """Add one report, with so many `crashes` between it and the next or the last one."""
    most = int(MAX_ANSWERS_PER_SECOND * (1 + beat.seconds))
    evidence.hours += beat.seconds / HOUR
    evidence.crashes += crashes
    if beat.latency_us_p95 is not None:
        evidence.latency_us_p95 += beat.latency_us_p95
        evidence.latency_reports += 1
    count, mean = min(beat.confidence.count, most), min(beat.confidence.mean, 1.0)
    evidence.answers += count
    evidence.confidence_sum += count * mean
    if count:
        evidence.confidence_reports += 1
        evidence.confidence_means += mean
        evidence.confidence_mean_squares += mean * mean
    mix: Counter[str] = Counter()
    for name, number in beat.labels.items():
        known = name in evidence.labels or len(evidence.labels) < MAX_KEPT_LABELS
        name = name if known else OTHER
        mix[name] += min(number, most)
        evidence.labels[name] = evidence.labels.get(name, 0) + min(number, most)
    evidence.mixes.add(mix)
    if beat.drift is not None:
        evidence.drift += beat.drift
        evidence.drift_reports += 1
    evidence.right += min(beat.right, beat.labelled, most)
    evidence.labelled += min(beat.labelled, most)
    evidence.worked = evidence.worked or beat.answered > 0 or count > 0 or any(beat.labels.values())
