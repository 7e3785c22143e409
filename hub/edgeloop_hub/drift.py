"""What devices report of drift: over time, over the fleet, and what accuracy their confidence promises."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, delete, func, insert, select

from edgeloop_contract.drift import BINS, FAULTS
from edgeloop_contract.messages import DriftReport
from edgeloop_hub.samples import accuracy
from edgeloop_hub.storage.schema import bundles, devices, drifts

FALSE_SHARE = 0.05  # of what is shown as drifted: the expected share that chance made (Benjamini & Hochberg 1995)
LEAST_SAMPLES = 20
MOST_ANSWERS = 1_000_000  # that one report is believed, of each confidence
MOST_MODELS = 50  # on a page
MOST_REPORTS = 50_000  # of the newest that one look at a model reads


@dataclass(frozen=True)
class Shift:
    """One feature on one device that is off by more than chance and the usual differences between devices explain."""

    device: str
    feature: str
    shift: float
    samples: int
    p: float


@dataclass(frozen=True)
class Promise:
    """Accuracy as confidence promises it; and what labelled samples drawn at random said, where there are any.

    `error`: promised less measured, over the labelled ones: how far such promises were off.
    """

    promised: float
    answers: int
    measured: float | None
    labelled: int
    error: float | None


def keep(connection: Connection, device: str, key: str, report: DriftReport, now: float) -> None:
    """A drift that begins in the future began now."""
    if report.since is not None:
        report = msgspec.structs.replace(report, since=min(report.since, time.time()))
    connection.execute(
        insert(drifts).values(
            device=device, key=key, at=now, model=report.model, sha256=report.sha256[:64], samples=report.samples,
            score=report.score, body=msgspec.json.encode(report).decode(),
        )
    )  # fmt: skip


def forget_old(connection: Connection, before: float) -> None:
    connection.execute(delete(drifts).where(drifts.c.at < before))


def reports(connection: Connection, model: str, since: float, device: str = "") -> dict[str, list[tuple[float, DriftReport]]]:
    """By device, oldest first; the newest MOST_REPORTS where a fleet has sent more."""
    rows = select(drifts.c.device, drifts.c.at, drifts.c.body).where(drifts.c.model == model, drifts.c.at >= since)
    if device:
        rows = rows.where(drifts.c.device == device)
    found: dict[str, list[tuple[float, DriftReport]]] = {}
    for name, at, body in connection.execute(rows.order_by(drifts.c.at.desc()).limit(MOST_REPORTS)):
        report = _report_of(body)
        if report is not None:
            found.setdefault(name, []).append((at, report))
    return {name: mine[::-1] for name, mine in sorted(found.items())}


def _report_of(body: str) -> DriftReport | None:
    """A stored report; None where an earlier release took what is none."""
    try:
        return msgspec.json.decode(body, type=DriftReport)
    except (msgspec.MsgspecError, RecursionError):
        return None


def models(connection: Connection) -> list[str]:
    """Of which drift was reported: published ones first, as a device may say any name; no more than a page has room for."""
    published = set(connection.execute(select(bundles.c.model).distinct()).scalars())
    named = select(drifts.c.model, func.count()).where(drifts.c.model != "").group_by(drifts.c.model)
    counts = connection.execute(named.order_by(func.count().desc())).all()
    return sorted(sorted((row[0] for row in counts), key=lambda name: name not in published)[:MOST_MODELS])


def abouts(connection: Connection, model: str) -> dict[str, dict[str, Any]]:
    """What the registry knows of each of the model's bundles, by digest."""
    rows = connection.execute(select(bundles.c.sha256, bundles.c.about).where(bundles.c.model == model))
    return {sha256: json.loads(about) for sha256, about in rows}


def faulty(connection: Connection) -> list[str]:
    """Devices whose last report says that a sensor has failed or is miswired: to be repaired, and not to be learnt from."""
    last = select(drifts.c.body).where(drifts.c.device == devices.c.name).order_by(drifts.c.at.desc(), drifts.c.key).limit(1)
    rows = connection.execute(select(devices.c.name, last.correlate(devices).scalar_subquery()).order_by(devices.c.name))
    told = ((name, _report_of(body)) for name, body in rows if body is not None)
    return sorted(name for name, report in told if report is not None and report.drifting and report.cause in FAULTS)


def shifts(found: dict[str, list[tuple[float, DriftReport]]], known: dict[str, dict[str, Any]]) -> list[Shift]:
    """Every device and feature together, at a fleet-wide false discovery rate of 5 %.

    A feature's mean strays by chance, from recording to recording and from place to place, as measured when the bundle was made.
    """
    tests = []
    for device, rows in found.items():
        newest = rows[-1][1].sha256
        mine = [r for _, r in rows if r.sha256 == newest]
        about = known.get(newest, {})
        n = sum(r.samples for r in mine)
        if n < LEAST_SAMPLES:
            continue
        for feature in dict.fromkeys(name for r in mine for name in r.shifts):  # a report of an idle time has none
            mean = sum(r.shifts.get(feature, 0.0) * r.samples for r in mine) / n
            tests.append(Shift(device, feature, mean, n, chance(about, feature, mean, n)))
    return discovered(tests)


def chance(about: dict[str, Any], feature: str, mean: float, n: int) -> float:
    """The p of a feature's mean over n samples of one device, where devices differ as the reference's places do.

    Few places tell little of how far the next one is off: Student's t with as many degrees of freedom. A device that gave fewer
    recordings, or fewer samples, than a place of the reference strays farther. 1 for a feature that the reference does not know.
    """
    from scipy.special import stdtr

    told = about.get("straying", {})
    places, samples, recordings = told.get("places", 0), told.get("samples", 0), told.get("recordings", 0)
    between = (told.get("between") or about.get("between", {})).get(feature)
    if between is None:
        return 1.0
    if places:
        variance = between**2 * (1 + 1 / places) + max(1 / n - places / samples, 0.0)
        if recordings:
            variance += told["within"].get(feature, 0.0) ** 2 * max(samples / recordings / n - places / recordings, 0.0)
        return float(2 * stdtr(max(1, places - 1), -abs(mean) / math.sqrt(variance + 1e-12)))
    if told.get("within"):  # every sample is by itself
        return math.erfc(abs(mean) * math.sqrt(n / 2))
    # a bundle that does not say of how many places it was told: they were three at least
    return float(2 * stdtr(2, -abs(mean) / math.sqrt(2 * between**2 + 1 / n)))


def discovered(tests: list[Shift], share: float = FALSE_SHARE) -> list[Shift]:
    """Benjamini and Hochberg's step-up procedure: those that stand, the surest first."""
    order = sorted(tests, key=lambda t: t.p)
    last = max((i for i, t in enumerate(order, 1) if t.p <= share * i / len(order)), default=0)
    return order[:last]


def promise(
    connection: Connection, found: dict[str, list[tuple[float, DriftReport]]], known: dict[str, dict[str, Any]], since: float
) -> Promise | None:
    """For the bundles that run now. None: no bundle says how its confidence is to be read, or nothing was answered."""
    bins = np.zeros(BINS)
    expected, right, labelled, error = 0.0, 0, 0, 0.0
    newest, without = {rows[-1][1].sha256 for rows in found.values()}, faulty(connection)
    for sha256 in newest:
        table = known.get(sha256, {}).get("reliability", [])
        if len(table) != BINS:
            continue
        shares = np.array([row[0] for row in table])
        seen = np.zeros(BINS)
        for rows in found.values():
            for _, report in rows:
                if report.sha256 == sha256 and len(report.confidence) == BINS:
                    seen += np.minimum(report.confidence, MOST_ANSWERS)
        bins += seen
        expected += float(seen @ shares)
        for row in accuracy.drawn(connection, {sha256}, since, without):
            labelled += 1
            right += row.guess == row.label
            error += float(shares[min(int(row.confidence * BINS), BINS - 1)]) - (row.guess == row.label)
    if not bins.sum():
        return None
    said = (right / labelled, labelled, error / labelled) if labelled else (None, 0, None)
    return Promise(expected / float(bins.sum()), int(bins.sum()), *said)


def described(
    connection: Connection, model: str, seconds: float, found: dict[str, list[tuple[float, DriftReport]]] | None = None
) -> dict[str, Any]:
    """For the page and the API: devices, discoveries, the promise. `found`: that time's reports, where already read."""
    since, known = time.time() - seconds, abouts(connection, model)
    found = reports(connection, model, since) if found is None else found
    read = sum(map(len, found.values()))
    made = promise(connection, found, known, since)
    return {
        "model": model,
        "reports": read,
        "oldest": min((rows[0][0] for rows in found.values()), default=None),
        "cut": read >= MOST_REPORTS,
        "devices": [
            {
                "device": name, "samples": sum(r.samples for _, r in rows), "alarms": sum(r.alarms for _, r in rows),
                "score": max(r.score for _, r in rows), "drifting": rows[-1][1].drifting, "since": rows[-1][1].since,
                "cause": rows[-1][1].cause, "text": rows[-1][1].text, "faults": dict(sorted(_faults(rows).items())),
                "sha256": rows[-1][1].sha256,
            }
            for name, rows in found.items()
        ],
        "shifts": [vars(s) for s in shifts(found, known)],
        "promise": vars(made) if made else None,
    }  # fmt: skip


def _faults(rows: list[tuple[float, DriftReport]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for _, report in rows:
        for reason, n in report.faults.items():
            total[reason] = total.get(reason, 0) + n
    return total
