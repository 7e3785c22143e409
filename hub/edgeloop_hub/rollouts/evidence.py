"""What a rollout's gates look at: who is in the cohort, who failed, and what each device's reports add up to.

No claim of a device is believed beyond what the time allows, and no more is read than a tick has room for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec
from sqlalchemy import Connection, select

from edgeloop_contract.messages import MAX_LABELS, Heartbeat
from edgeloop_hub.auth.accounts import Device
from edgeloop_hub.drift.reports import faulty
from edgeloop_hub.rollouts.gates import Seen
from edgeloop_hub.rollouts.policy import Rollout
from edgeloop_hub.samples import accuracy
from edgeloop_hub.storage.schema import devices, events, heartbeats, rollouts

HOUR = 3600.0
OTHER = "others"  # labels beyond as many as a model has
FAILED = ("failed", "rolled-back")
MOST_REPORTS = 500_000  # of the newest that one comparison reads
USUAL_POLL_SECONDS = 300.0
LEAST_WINDOW_SECONDS = HOUR
AT_ONCE = 500  # devices that one query names
MOST_ANSWERS_PER_SECOND = 10_000  # that a device is believed
MOST_CRASHES_PER_HOUR, FIRST_CRASHES = 60.0, 8.0  # the agent waits a minute between restarts, after the first few


def members(connection: Connection, rollout: Rollout) -> tuple[list[Device], list[Device]]:
    """Devices of this channel and model: those of the cohort so far, and the others."""
    rows = select(devices.c.name, devices.c.labels, devices.c.channel, devices.c.model, devices.c.sha256).where(
        devices.c.channel == rollout.channel, devices.c.model == rollout.model, devices.c.revoked.is_(None)
    )
    found = [Device(r.name, json.loads(r.labels), r.channel, r.model, r.sha256) for r in connection.execute(rows)]
    inside = [d for d in found if rollout.cohort_has(d.name, d.labels)]
    names = {d.name for d in inside}
    return inside, [d for d in found if d.name not in names]


def failures(connection: Connection, rollout: Rollout, names: Iterable[str]) -> set[str]:
    """Devices that refused the bundle or gave it back since the rollout began."""
    began = select(rollouts.c.began).where(rollouts.c.id == rollout.id).scalar_subquery()
    rows = select(events.c.source).where(events.c.target == rollout.target, events.c.kind.in_(FAILED), events.c.at >= began - 1)
    return {row.source for row in connection.execute(rows.distinct())} & set(names)


def seen_since(connection: Connection, names: set[str], sha256s: set[str], since: float) -> dict[str, Seen]:
    """Reports of these devices from these bundles, added up by device: the newest, where they are very many."""
    now = time.time()
    if not names or not sha256s:
        return {}
    window = max(LEAST_WINDOW_SECONDS, MOST_REPORTS * USUAL_POLL_SECONDS / len(names))
    since = max(since, now - window)
    found: dict[str, Seen] = {}
    later: dict[str, int] = {}
    for name, beat in _newest_first(connection, sorted(names), sha256s, since):
        add(found.setdefault(name, Seen()), beat, later.get(name, beat.crashes))
        later[name] = beat.crashes
    for seen in found.values():
        seen.hours = min(seen.hours, (now - since) / HOUR + 1)
        seen.crashes = min(seen.crashes, FIRST_CRASHES + MOST_CRASHES_PER_HOUR * seen.hours)
    for row in accuracy.drawn(connection, sha256s, since, faulty(connection)):
        if row.device in found:
            found[row.device].labelled += 1
            found[row.device].right += row.guess == row.label
    return found


def _newest_first(connection: Connection, names: list[str], sha256s: set[str], since: float) -> Iterator[tuple[str, Heartbeat]]:
    """Each device's reports, in blocks of devices. A row that is none by today's rules is passed over."""
    share = 4 * MOST_REPORTS * AT_ONCE // max(len(names), AT_ONCE)
    columns = select(heartbeats.c.device, heartbeats.c.body).where(heartbeats.c.at >= since, heartbeats.c.sha256.in_(sha256s))
    rest = iter(names)
    while block := list(islice(rest, AT_ONCE)):
        rows = columns.where(heartbeats.c.device.in_(block)).order_by(heartbeats.c.at.desc()).limit(share)
        for name, body in connection.execute(rows):
            beat = beat_of(body)
            if beat is not None:
                yield name, beat


def beat_of(body: str) -> Heartbeat | None:
    """A stored report; None where an earlier release took what is none."""
    try:
        return msgspec.json.decode(body, type=Heartbeat)
    except (msgspec.MsgspecError, RecursionError):
        return None


def add(seen: Seen, beat: Heartbeat, crashes_later: int) -> None:
    """One report more. `crashes_later`: what the device's next report counts."""
    most = int(MOST_ANSWERS_PER_SECOND * (1 + beat.seconds))
    seen.hours += beat.seconds / HOUR
    seen.crashes += max(0, crashes_later - beat.crashes)
    if beat.latency_us_p95 is not None:
        seen.latency_us_p95.append(beat.latency_us_p95)
    count, mean = min(beat.confidence.count, most), min(beat.confidence.mean, 1.0)
    seen.answers += count
    seen.confidence_sum += count * mean
    seen.confidence_squares += count * (beat.confidence.variance + mean * mean)
    for name, number in beat.labels.items():
        known = name in seen.labels or len(seen.labels) < MAX_LABELS
        seen.labels[name if known else OTHER] += min(number, most)
    if beat.drift is not None:
        seen.drift.append(beat.drift)
    seen.right += min(beat.right, beat.labelled, most)
    seen.labelled += min(beat.labelled, most)
    seen.worked = seen.worked or beat.answered > 0 or count > 0 or any(beat.labels.values())
