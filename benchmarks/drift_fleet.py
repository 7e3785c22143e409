"""Discoveries over a fleet of watches: people whom nobody has seen are none, a turned or silent sensor among them is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from edgeloop_contract.archive import Bundle
from edgeloop_contract.messages import DriftReport
from edgeloop_contract.sample_messages import FeatureShift
from edgeloop_hub.drift.discoveries import discovered, shifts
from edgeloop_hub.updates.registry import group_variance
from edgeloop_pipeline.drift.calibration import reference_of
from edgeloop_pipeline.drift.pool import Pool, pool_of
from harness import Row, at_most

PLACES, FLEETS = 4, 60
TURNED, GYROSCOPE = [1, 2, 0, 4, 5, 3], [1, 1, 1, 0, 0, 0]


def fleet(quick: bool) -> Iterator[Row]:
    """Of ten persons four are the reference, by lot, and six wear devices, some 200 windows each. Input features alone.

    Persons are exchangeable so: what is told of them is false. Scores are left out: the network knows four of the ten.
    """
    from closed_loop_devices import Recordings
    from edgeloop_agent.engine import Engine
    from edgeloop_contract.bench_report import VariantChoice
    from loop import first_champion

    truth, rng = Recordings(), np.random.default_rng(0)
    with Bundle.open(first_champion()[0]) as bundle:
        engine, task = Engine(bundle, VariantChoice("tflite-int8", 1, "benchmark")), bundle.manifest.task

        def features(spoil: Callable[[Any], Any] = lambda values: values) -> tuple[Pool, list[str]]:
            sets = [(s, one) for s in sorted(set(truth.subjects.tolist())) for half in "AB" for one in truth.of(s, half)]
            every = [(s, i, a) for i, (s, one) in enumerate(sets) for a in engine.answers(spoil(truth.values(one)))]
            values, scores = (np.concatenate([getattr(a, part) for *_, a in every]) for part in ("sample", "scores"))
            pool, names, _ = pool_of(task, values, scores, np.array([i for _, i, _ in every]), np.array([s for s, *_ in every]))
            count = sum("channel" in name for name in names)
            return Pool(pool.features[:, :count], pool.answers, pool.recordings, pool.groups), names[:count]

        usual, names = features()
        changes: dict[str, Any] = {"turned axes": lambda v: v[:, TURNED], "silent gyroscope": lambda v: v * GYROSCOPE}
        spoilt = {name: features(spoil)[0] for name, spoil in changes.items()}
    labels = len(task.labels)
    people = sorted(set(usual.groups.tolist()))
    lots = rng.permutation(list(itertools.combinations(people, PLACES)))[: 6 if quick else FLEETS]
    wrong, normal, found = [], [], {name: [] for name in spoilt}
    for home in lots:
        reference = reference_of(usual.of(np.isin(usual.groups, home)), names, labels)
        variances = {"a": group_variance(reference)}
        away = [p for p in people if p not in home]
        rows = {str(p): told(reference, usual.of(usual.groups == p), names, rng) for p in away}
        wrong.append(bool(shifts(rows, variances)))
        normal.append(bool(by_normal(rows, dict(zip(names, reference.between, strict=True)))))
        for name, pool in spoilt.items():
            odd = {**rows, str(away[0]): told(reference, pool.of(pool.groups == away[0]), names, rng)}
            found[name].append(str(away[0]) in {s.device for s in shifts(odd, variances)})
    yield at_most(
        f"watch: fleets of six new persons of whom anything is told, of {len(lots)} references", 100 * np.mean(wrong), "%", 5.0
    )
    yield Row("  the same by a normal distribution of the reference's spread", 100 * np.mean(normal), "%")
    for name, told_of in found.items():
        yield Row(f"watch: {name} on one of six, told", 100 * np.mean(told_of), "%")


def by_normal(rows: dict[str, list[tuple[float, DriftReport]]], between: dict[str, float]) -> list[FeatureShift]:
    """Discoveries as if the spread of so few places were known, and windows strayed by themselves."""
    tests = []
    for device, [(_, report)] in rows.items():
        for feature, mean in report.shifts.items():
            deviation = math.sqrt(between[feature] ** 2 + 1 / report.samples)
            tests.append(FeatureShift(device, feature, mean, report.samples, math.erfc(abs(mean) / deviation / math.sqrt(2))))
    return discovered(tests)


def told(reference: Any, pool: Pool, names: list[str], rng: np.random.Generator) -> list[tuple[float, DriftReport]]:
    """A device's report of some 200 windows, whole recordings of them by lot."""
    order = rng.permutation(np.unique(pool.recordings))
    counts = np.array([(pool.recordings == r).sum() for r in order])
    mine = pool.of(np.isin(pool.recordings, order[: int(np.searchsorted(np.cumsum(counts), 200)) + 1]))
    standard = (mine.features - np.asarray(reference.centre)[mine.answers]) / np.asarray(reference.scale)
    found = dict(zip(names, standard.mean(0).tolist(), strict=True))
    return [(0.0, DriftReport(model="m", sha256="a", samples=len(standard), shifts=found))]
