"""What labels are worth: samples that devices and hub choose, against as many at random; and whether the gate can be fooled.

exercise_watch as in `make loop`: trained at home on subjects 1 to 3, worn by 7 to 10. One arm of each is the stream from which
samples are chosen and labelled, the other one judges. Retraining is the recipe itself, going on from the champion, as
`edgeloop retrain` does it. $ONLY: some of the parts; of what labels are worth, $ROWS: the first rows only, $DRAWS: of each.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import harness  # noqa: F401  (it puts the scripts on the path)

# isort: split
from closed_loop_devices import SETS
from edgeloop_contract.archive import Bundle
from edgeloop_hub.samples import accuracy, sample_store
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.retraining import gate, pseudo_labelling
from edgeloop_pipeline.retraining.cycle import WARM_START_RATE
from edgeloop_pipeline.retraining.shipped_answers import right
from edgeloop_pipeline.run.runner import Listener
from field_devices import MODEL, Stream, asked, stream, together
from gate_rates import gate_rates, measured_gate_rates
from harness import BIN, Row, at_least, at_most, each, edgeloop, main
from outbox_kills import outbox_kills

RUNS, MIN_CONFIDENCE = "runs", 0.9
CHANGES = [word for change in SETS for word in ("--set", change)]


def data_of(came: Stream, rows: list[int], names: tuple[str, ...], labels: Any = None) -> field_data.Field:
    """Those rows as labelled field data. `labels`: others than the true ones."""
    truth = came.labels[rows] if labels is None else labels
    text = [np.array([source[r] for r in rows], dtype=str) for source in (came.devices, came.recordings)]
    return field_data.Field(
        came.samples[rows], np.array([names[n] for n in truth], dtype=str), text[0], text[1],
        np.array([f"k{r:06}" for r in rows]), np.array(rows, dtype=float), np.zeros(len(rows), bool), np.full(len(rows), "train"),
        np.ones(len(rows), bool), np.zeros(len(rows), bool), np.zeros(len(rows), bool),
    )  # fmt: skip


def changed_by(found: field_data.Field, folder: Path, weights: Path, seed: int) -> list[str]:
    """What retraining changes in the recipe."""
    rate = recipes.load(recipes.find(MODEL)).stages["train"]["learning_rate"]
    return [
        f"version={2 + seed}", f"seed={seed}", f"field={{file: '{found.save(folder).resolve()}'}}", f"train.start={weights}",
        f"train.learning_rate={rate * WARM_START_RATE}", "profile.seconds=0.05",
    ]  # fmt: skip


def divided(found: field_data.Field) -> field_data.Field:
    """A tenth of the recordings validate; another arm judges here, so all others train."""
    validating = np.array([zlib.crc32(str(g).encode()) % 10 == 9 for g in found.groups], dtype=bool)
    return replace(found, parts=np.where(validating, "validation", "train"))


def with_pseudo_labels(found: field_data.Field, rest: field_data.Field, folder: Path, weights: Path, seed: int) -> field_data.Field:
    """And what nobody labelled, where the teacher is confident."""
    teaching = recipes.load(recipes.find(MODEL), (*SETS, *changed_by(found, folder, weights, seed)))
    made, given = pseudo_labelling.add(teaching, found, rest, MIN_CONFIDENCE, Store(Path(RUNS)), Listener())
    print(
        f"  {given.count} of {given.unlabelled} samples pseudo-labelled, temperature {given.temperature:.2f}",
        file=sys.stderr,
    )
    return made


def retrained(found: field_data.Field, folder: Path, weights: Path, seed: int = 0) -> Path | None:
    """The challenger's bundle; None where the recipe's floors refuse it."""
    words = [word for change in changed_by(found, folder, weights, seed) for word in ("--set", change)]
    done = subprocess.run(
        [BIN / "edgeloop", "run", MODEL, "--runs", RUNS, *CHANGES, *words, "--json"], capture_output=True, text=True, check=False
    )  # fmt: skip
    if done.returncode == 1 and "below min_accuracy" in done.stderr:
        return None
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return Path(str(msgspec.json.decode(done.stdout)["bundle"]))


def labels_worth(quick: bool) -> Iterator[Row]:
    champion, weights, project = first_champion()
    seeds = range(1 if quick else int(os.environ.get("DRAWS", "4")))
    names = project.splits.labels
    with Bundle.open(champion) as bundle, tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        came, judged = stream(bundle, "A"), stream(bundle, "B")
        test = project.splits.test

        def both(path: Path) -> tuple[float, float]:
            away, home = right(path, judged.samples, judged.labels).mean(), right(path, test.values, test.labels).mean()
            return float(away) * 100, float(home) * 100

        before = both(champion)
        yield Row("new wearers, before", before[0], "%")
        yield Row("home, before", before[1], "%")
        gains: dict[tuple[str, int], list[float]] = {}
        drops = []
        plan = [("ours", 50), ("random", 50)] if quick else [
            ("ours, whole recordings", 50), ("ours", 50), ("random", 100), ("ours, whole recordings", 200), ("ours", 200),
            ("random", 400), ("all", len(came.labels)), ("random, whole recordings", 50), ("random, whole recordings", 100),
            ("ours and pseudo-labels", 50), ("random", 50), ("random", 200), ("ours and pseudo-labels", 200),
        ]  # fmt: skip
        for kind, count in plan[: int(os.environ.get("ROWS", len(plan)))]:
            whole = kind.endswith("whole recordings")
            for seed in seeds:
                rng = np.random.default_rng(seed)
                if kind.startswith("ours"):
                    said, _ = asked(bundle, came, count, seed, folder, whole)
                    rows, truth = list(said), np.array(list(said.values()))
                else:
                    rows = rng.choice(len(came.labels), min(count, len(came.labels)), replace=False).tolist()
                    rows = together(came, rows) if whole else rows
                    truth = came.labels[rows]
                found = divided(data_of(came, rows, names, truth))
                if kind == "ours and pseudo-labels":
                    rest = sorted(set(range(len(came.labels))) - set(rows))
                    found = with_pseudo_labels(found, divided(data_of(came, rest, names)), folder, weights, seed)
                made = retrained(found, folder, weights, seed)
                after = both(made) if made else (0.0, 0.0)
                gains.setdefault((kind, count), []).append(after[0] - before[0])
                drops.append(before[1] - after[1])
                print(
                    f"  {kind} {count}: {len(rows)} samples, {(truth != came.labels[rows]).sum()} labels wrong,"
                    f" {after[0]:.1f} % away, {after[1]:.1f} % home",
                    file=sys.stderr,
                    flush=True,
                )
        yield from gained(gains)
        yield at_most("lost at home, at most", max(drops), "points", 0.5)


def gained(gains: dict[tuple[str, int], list[float]]) -> Iterator[Row]:
    """Points by what was labelled, each with its standard error; and ours against twice as many at random."""
    for (kind, count), found in gains.items():
        yield Row(f"gain with {count} labels, {kind} (standard error {_error(found):.1f})", float(np.mean(found)), "points")
    for count in (50, 200):
        for kind in ("ours", "ours, whole recordings"):
            if ("random", 2 * count) in gains and (kind, count) in gains:
                ours, twice = gains[kind, count], gains["random", 2 * count]
                noise = np.hypot(_error(ours), _error(twice))
                said = f"{count} of {kind}, against {2 * count} samples at random (standard error {noise:.1f})"
                yield at_least(said, float(np.mean(ours)), "points", float(np.mean(twice)), float(np.mean(twice)))


def _error(found: list[float]) -> float:
    """Of the mean."""
    return float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else float("nan")


def field_accuracy(quick: bool) -> Iterator[Row]:
    """Accuracy told from random samples that have a label: of a fair share of them, and of all, against all that were drawn."""
    champion, _, _ = first_champion()
    with Bundle.open(champion) as bundle, tempfile.TemporaryDirectory() as scratch:
        came = stream(bundle, "A")
        right = came.scores.reshape(len(came.labels), -1).argmax(1) == came.labels
        for whole, questions in ((False, 50), (False, 100), (True, 20), (True, 50)):
            fair, naive = [], []
            for seed in range(3 if quick else 40):
                _, database = asked(bundle, came, questions, seed, Path(scratch), whole, random_share=0.3)
                with database.reading() as connection:
                    told = accuracy.drawn(connection, None, 0.0)
                    drawn = [row for row in sample_store.listed(connection, MODEL, "all") if row.random]
                truth = {row.key: bool(right[int(row.key[:6])]) for row in drawn}
                of_all = np.mean(list(truth.values()))
                naive.append(100 * (np.mean([truth[row.key] for row in drawn if row.label]) - of_all))
                if told:
                    fair.append(100 * (np.mean([truth[row.key] for row in told]) - of_all))
            name = f"accuracy told after {questions} {'recordings' if whole else 'samples'}, off by"
            yield Row(f"{name}, of all labelled (standard error {_error(naive):.1f})", float(np.mean(naive)), "points")
            if fair:
                said = f"{name}, of a fair share (told {len(fair)} times; standard error {_error(fair):.1f})"
                yield Row(said, float(np.mean(fair)), "points")


def shuffled_labels(quick: bool) -> Iterator[Row]:
    champion, weights, project = first_champion()
    names, seeds = project.splits.labels, 2 if quick else 20
    refused = 0
    with Bundle.open(champion) as bundle, tempfile.TemporaryDirectory() as scratch:
        came, test = stream(bundle, "A"), project.splits.test
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            rows = sorted(rng.choice(len(came.labels), 300, replace=False).tolist())
            found, _ = data_of(came, rows, names, rng.permutation(came.labels[rows])).divided({})
            made = retrained(found, Path(scratch), weights, seed)
            if made is None:
                refused += 1
                continue
            held = field_data.samples(found.judging, names)
            answers = [(right(p, test.values, test.labels), right(p, held.values, held.labels)) for p in (champion, made)]
            home = gate.Answers(answers[0][0], answers[1][0], test.recording)
            away = gate.Answers(answers[0][1], answers[1][1], held.recording)
            verdict = gate.judge(home, away, gate.ChallengerLimits())
            refused += not verdict.passed
            print(f"  shuffled, seed {seed}: {'; '.join(verdict.reasons) or 'PASSED'}", file=sys.stderr, flush=True)
    yield at_least(f"challengers from shuffled labels refused, of {seeds}", refused, "", seeds)


def first_champion() -> tuple[Path, Path, Project]:
    """As `make loop` begins: its bundle, the weights from which retraining goes on, and its data."""
    told: Any = edgeloop("run", MODEL, "--runs", RUNS, *CHANGES)
    store = Store(Path(RUNS))
    last = store.last(MODEL, "train")
    assert last is not None
    weights = store.folder("train", last.key) / "network.safetensors"
    return Path(str(told["bundle"])), weights.resolve(), Project(recipes.load(recipes.find(MODEL), tuple(SETS)))


def measure(quick: bool) -> Iterator[Row]:
    parts = (gate_rates, measured_gate_rates, outbox_kills, labels_worth, field_accuracy, shuffled_labels)
    only = os.environ.get("ONLY", "").split() or [part.__name__ for part in parts]
    yield from each(quick, *(part for part in parts if part.__name__ in only))


if __name__ == "__main__":
    main(measure)
