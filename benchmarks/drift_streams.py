"""Drift on real features, not Gaussian nor independent: river's bundled sets, the watch by subject, fashion spoiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors import NO_RIVER, PER_10K, Ours, Stream, alarms_per_10k, delay, peers
from edgeloop_contract.manifest import Classification
from edgeloop_pipeline.drift.calibration import calibrate
from edgeloop_pipeline.drift.pool import Pool, pool_of
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from harness import NotRun, Row, against, each

NULL, BEFORE, LONGEST = 20_000, 500, 3000
FAIR = 2 * PER_10K  # a detector that alarms more often without a change is quick for nothing
Draw = Callable[[np.random.Generator, int], tuple[Stream, Stream]]  # features and answers of so many samples, one after the other


@dataclass(frozen=True)
class Case:
    """A reference, fresh samples without change, and samples after each change."""

    name: str
    pool: Pool
    names: list[str]
    labels: int
    null: Draw
    changed: dict[str, Draw]


def once(pool: Pool) -> Draw:
    """Its samples in another order, none twice: a small set that is gone through again and again is no fresh one."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Stream, Stream]:
        rows = rng.permutation(len(pool.features))[:n]
        return pool.features[rows], pool.answers[rows]

    return draw


def blocks(pool: Pool) -> Draw:
    """Whole recordings, drawn with replacement, their samples in order."""
    parts = np.split(np.arange(len(pool.features)), np.flatnonzero(np.diff(pool.recordings)) + 1)

    def draw(rng: np.random.Generator, n: int) -> tuple[Stream, Stream]:
        rows: list[int] = []
        while len(rows) < n:
            rows += parts[int(rng.integers(len(parts)))].tolist()
        return pool.features[rows[:n]], pool.answers[rows[:n]]

    return draw


def worn(pool: Pool, sets: Stream, persons: int) -> Draw:
    """As a device is worn: by so many persons, drawn by lot, one after the other; each one's sets in another order, none twice."""

    def draw(rng: np.random.Generator, n: int) -> tuple[Stream, Stream]:
        drawn = rng.permutation(np.unique(pool.groups))[:persons]
        order = [one for person in drawn for one in rng.permutation(np.unique(sets[pool.groups == person]))]
        rows = np.concatenate([np.flatnonzero(sets == one) for one in order])[:n]
        return pool.features[rows], pool.answers[rows]

    return draw


def real(quick: bool) -> Iterator[Row]:
    def image_segments(quick: bool) -> Iterator[Row]:
        yield from compared(segments, 2 if quick else 30, 1)

    def phishing_sites(quick: bool) -> Iterator[Row]:
        yield from compared(phishing, 2 if quick else 30, 1)

    def watch_by_subject(quick: bool) -> Iterator[Row]:
        yield from compared(watch(), 2 if quick else 30, 1)

    def fashion_spoiled(quick: bool) -> Iterator[Row]:
        case = fashion()
        yield from compared(lambda _: case, 1, 3 if quick else 30)

    yield from each(quick, image_segments, phishing_sites, watch_by_subject, fashion_spoiled)


def shown(case: Case, rows: Stream) -> Stream:
    """What river's detectors watch: the features, and each answer's share."""
    answers = np.eye(case.labels)[rows[:, 0].astype(int)] if case.labels > 1 else rows[:, :0]
    return np.concatenate([rows[:, 1:], answers], axis=1)


def compared(make: Callable[[int], Any], references: int, streams: int) -> Iterator[Row]:
    """Each reference with so many streams. River's detectors keep the thresholds that fit the first reference."""
    rng, rates, found, others = np.random.default_rng(1), [], {}, None
    more: dict[float, list[float]] = {10.0: [], 50.0: []}
    for seed in range(references):
        case = make(seed)

        def rows(draw: Draw, n: int) -> Stream:
            return np.column_stack(draw(rng, n)[::-1])

        ours = Ours(calibrate(case.pool, case.names, case.labels), labelled=True)
        if others is None:
            others = peers(shown(case, rows(blocks(case.pool), NULL)))
        everyone = {"ours": ours, **{name: detector for name, (detector, _) in others.items()}}
        for _ in range(max(1, streams // 10)):
            null = rows(case.null, NULL if references == 1 else NULL // 10)
            rates.append([len(null), *(alarms_per_10k(d, null if d is ours else shown(case, null)) for d in everyone.values())])
            for setting, alarms in more.items():
                alarms.append(alarms_per_10k(Ours(ours.monitor.reference, labelled=True, per_10k=setting), null))
        for name, draw in case.changed.items():
            for _ in range(streams):
                before, after = rows(case.null, BEFORE), rows(draw, LONGEST)
                for who, detector in everyone.items():
                    sides = (before, after) if who == "ours" else (shown(case, before), shown(case, after))
                    found.setdefault(name, {}).setdefault(who, []).append(delay(detector, *sides))
    table = np.array(rates)
    mean = (table[:, 1:] * table[:, :1]).sum(0) / table[:, 0].sum()
    told = ", ".join(f"{who} {rate:.1f}" for who, rate in zip(list(everyone)[1:], mean[1:], strict=True))
    name = f"{case.name}: false alarms per 10k on {table[:, 0].sum():,.0f} fresh samples, set to {PER_10K:g}"
    yield Row(name, float(mean[0]), "", None, None, f"river's: {told or NO_RIVER}")
    for setting, alarms in more.items():
        said = f"standard error {np.std(alarms) / np.sqrt(len(alarms)):.1f}, from reference to reference or stream to stream"
        rate = float(np.average(alarms, weights=table[:, 0]))
        yield Row(f"{case.name}: false alarms per 10k, set to {setting:g}", rate, "", None, None, said)
    for name, by in found.items():
        mine = float(np.mean(by["ours"]))
        peers_here = (
            (float(np.mean(by[who])), who) for who, rate in zip(list(everyone)[1:], mean[1:], strict=True) if rate <= FAIR
        )
        best = min(peers_here, default=(None, "none"))
        why = f"they alarm more than {FAIR:g} times in 10k without a change" if others else NO_RIVER
        yield against(f"{case.name}: delay, {name}", mine, "samples", best[0], f"shortest; best peer {best[1]}", why)


def _plain(name: str, x: Stream, seed: int) -> Case:
    """Rows of a table, standardised: the one half is the reference, the other comes fresh."""
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    x = np.random.default_rng(seed).permutation(x[:, x.std(0) > 0.5])
    half = len(x) // 2

    def pool(rows: Stream) -> Pool:
        place = np.arange(len(rows))
        return Pool(rows, np.zeros(len(rows), dtype=np.intp), place, place)

    fresh = x[half:]
    one = np.eye(x.shape[1])[3]
    changed = {"one feature +1 sd": blocks(pool(fresh + one)), "all features +0.25 sd": blocks(pool(fresh + 0.25))}
    return Case(name, pool(x[:half]), [f"f{i}" for i in range(x.shape[1])], 1, once(pool(fresh)), changed)


def segments(seed: int) -> Case:
    """river's ImageSegments: 18 features of pieces of photographs, seven kinds in turn."""
    x, kinds = _river("ImageSegments")
    grass_more = kinds == sorted(set(kinds))[2]
    case = _plain("river ImageSegments", x, seed)
    z = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    z = z[:, z.std(0) > 0.5]
    mixed = np.concatenate([z, np.repeat(z[grass_more], 3, axis=0)])
    place = np.arange(len(mixed))
    case.changed["one kind four times as often"] = blocks(Pool(mixed, np.zeros(len(mixed), dtype=np.intp), place, place))
    return case


def phishing(seed: int) -> Case:
    """river's Phishing: nine features of web sites, three values each."""
    return _plain("river Phishing", _river("Phishing")[0], seed)


def _river(name: str) -> tuple[Stream, Any]:
    try:
        from river import datasets
    except ImportError:
        raise NotRun(NO_RIVER) from None
    rows = list(getattr(datasets, name)())
    return np.array([[float(v) for v in x.values()] for x, _ in rows]), np.array([str(y) for _, y in rows])


def watch() -> Callable[[int], Case]:
    """exercise_watch as `make loop` trains it: four persons at home, then others, turned axes, or a gyroscope that is silent.

    Two thirds of the sets of repetitions at home are the reference, by lot; the others come fresh, each once.
    """
    from closed_loop_devices import WEARERS, Recordings
    from edgeloop_agent.engine import Engine
    from edgeloop_contract.archive import Bundle
    from edgeloop_contract.bench_report import VariantChoice
    from edgeloop_models.exercise_watch.data import AT_HOME
    from loop import first_champion

    truth, home = Recordings(), (*AT_HOME["train"], *AT_HOME["validation"])
    others = tuple(sorted({subject for name, subject in WEARERS.items() if name.startswith("worn")}))
    with Bundle.open(first_champion()[0]) as bundle:
        engine, task = Engine(bundle, VariantChoice("tflite-int8", 1, "benchmark")), bundle.manifest.task
        assert isinstance(task, Classification)

        def features(subjects: tuple[int, ...], spoil: Callable[[Any], Any] = lambda v: v) -> tuple[Pool, list[str], Any]:
            """Of both arms; and of which set each window is."""
            sets = [(s, one) for s in subjects for half in "AB" for one in truth.of(s, half)]
            every = [(s, one, i, a) for i, (s, one) in enumerate(sets) for a in engine.answers(spoil(truth.values(one)))]
            values, scores = (np.concatenate([getattr(a, part) for *_, a in every]) for part in ("sample", "scores"))
            of = [np.array(column) for column in zip(*((s, one[0], i) for s, one, i, _ in every), strict=True)]
            return *pool_of(task, values, scores, of[1], of[0])[:2], of[2]

        whole, names, sets = features(home)
        away, _, sets_away = features(others)
        changed = {"another person": worn(away, sets_away, 1)} | {
            name: worn(features(home, spoil)[0], sets, len(home))
            for name, spoil in {
                "axes turned": lambda v: v[:, [1, 2, 0, 4, 5, 3]], "gyroscope silent": lambda v: v * [1, 1, 1, 0, 0, 0],
            }.items()
        }  # fmt: skip

    def case(seed: int) -> Case:
        order = np.random.default_rng(seed).permutation(sets.max() + 1)
        fresh = np.isin(sets, order[: len(order) // 3])
        null = worn(whole.of(fresh), sets[fresh], len(home))
        return Case("watch", whole.of(~fresh), names, len(task.labels), null, changed)

    return case


def fashion() -> Case:
    """Images spoiled a little more with each, entirely after 1,000; answered by a linear classifier, which is enough for this."""
    import torch

    splits = Project(recipes.load(recipes.find("fashion"))).splits
    task = Classification(labels=list(splits.labels))
    torch.manual_seed(0)
    linear = torch.nn.Linear(splits.train.values[0].size, len(splits.labels))
    optimizer = torch.optim.Adam(linear.parameters(), 1e-3)
    x, y = torch.from_numpy(np.asarray(splits.train.values[:20_000])).flatten(1).float() / 255, splits.train.labels[:20_000]
    for epoch in range(5):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(linear(x[rows]), torch.from_numpy(y[rows.numpy()])).backward()
            optimizer.step()

    def features(images: Any) -> tuple[Pool, list[str]]:
        with torch.no_grad():
            scores = linear(torch.from_numpy(images).flatten(1).float() / 255).numpy()
        return pool_of(task, images, scores, np.arange(len(images)), np.arange(len(images)))[:2]

    test = np.asarray(splits.test.values)

    def spoiled(spoil: Callable[[Any, np.random.Generator], Any]) -> Draw:
        def draw(rng: np.random.Generator, n: int) -> tuple[Stream, Stream]:
            images = test[rng.integers(len(test), size=n)]
            strength = np.minimum(np.arange(n) / 1000, 1.0)[:, None, None, None]
            mixed = (1 - strength) * images + strength * spoil(images.astype(float), rng)
            pool = features(mixed.round().clip(0, 255).astype(np.uint8))[0]
            return pool.features, pool.answers

        return draw

    def blurred(images: Any, _: np.random.Generator) -> Any:
        around = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
        return sum(around[:, i : i + 28, j : j + 28] for i in range(3) for j in range(3)) / 9

    reference, names = features(np.asarray(splits.validation.values))
    return Case(
        "fashion", reference, names, len(splits.labels), blocks(features(test)[0]),
        {
            "blur that grows": spoiled(blurred), "noise that grows": spoiled(lambda x, rng: x + rng.normal(0, 25, x.shape)),
            "light that fades": spoiled(lambda x, _: 0.7 * x),
        },
    )  # fmt: skip
