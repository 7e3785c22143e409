"""What corrected boxes are worth: pictures that a device chooses, against twice as many at random; under another microscope's look.

A detector is trained at home on half of the training pictures of `blood_cells`. The other half is what a device in the field sees,
through another microscope: other colours, less focus. The device answers and chooses by its own rule (`outbox.selection`); of what
it keeps, the most valuable pictures get their boxes. The peer is twice as many pictures drawn by lot. Both go on from the first
network as `edgeloop retrain` does it. The judge is the float network's mAP on the test pictures with the other look; these take no
part in anything. The recipe is smaller than blood_cells' own (a narrow network, pictures of 96 × 128 pixels, fewer epochs): a CPU
runs it in minutes. With --quick the pictures are generated (tests/projects/shapes). $DRAWS: seeds of draws and trainings.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import ROOT, Row, at_least, each, edgeloop, main

RUNS = Path("runs")
UNCERTAIN_SHARE, FALSE_ALARMS = 0.3, 10.0  # of the device's config, as in `make loop`
COLOURS = np.array([[0.50, 0.25, 0.15], [0.05, 0.35, 0.30], [0.20, 0.05, 0.40]])  # another lamp and another stain
OFFSET, GAMMA, BLUR_PIXELS = 30.0, 1.4, 1.2
HALVES = '''

class _Half:
    """The data with half of its training pictures."""

    def __init__(self, first):
        self.data, self.first = whole(), first

    def files(self):
        return self.data.files()

    def load(self):
        from dataclasses import replace

        from edgeloop_pipeline.data import Split

        found = self.data.load()
        rows = range(self.first, len(found.train.labels), 2)
        half = Split([found.train.recordings[i] for i in rows], [found.train.labels[i] for i in rows])
        return replace(found, train=half)


def home():
    return _Half(0)


def field():
    return _Half(1)
'''
AFTER_TRAINING = ("quantize", "export", "verify", "profile", "package", "report")
BLOOD = "from edgeloop_models.blood_cells.data import augment, blood_cells as whole  # noqa: F401\n"
SMALLER = (
    "network_args={width: small, depths: [1, 1]}", "train.epochs=40", "train.average=0.98",
    "preprocessing=[{step: colour}, {step: resize, height: 96, width: 128}]",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """`name`: of the project. `ours`, `random`: pictures that get their boxes."""

    name: str
    folder: Path
    changes: tuple[str, ...]
    ours: int
    random: int
    draws: int


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, boxes_worth)


def boxes_worth(quick: bool) -> Iterator[Row]:
    from edgeloop_contract.archive import Bundle

    with tempfile.TemporaryDirectory() as scratch:
        plan = made(Path(scratch) / "project", quick)
        words = [word for change in (*plan.changes, "export.runtimes=[onnx]") for word in ("--set", change)]
        run: Any = edgeloop("run", plan.folder, "--runs", RUNS, *words)
        with Bundle.open(Path(run["bundle"])) as bundle:
            chosen = choice(bundle, plan)
        first = trained(plan)
        weights = first / "network.safetensors"
        home, field = figures(plan, first)
        yield Row(f"{plan.name}: mAP, home, before", 100 * home, "%")
        yield Row(f"{plan.name}: mAP, another look, before", 100 * field, "%")
        yield Row(f"{plan.name}: pictures that the device keeps, of {len(chosen)}", sum(value > 0 for value in chosen), "")
        arms: dict[str, list[tuple[float, float]]] = {"chosen": [], "random": []}
        for seed in range(plan.draws):
            best = np.argsort(-np.array(chosen), kind="stable")[: plan.ours]
            drawn = np.random.default_rng(seed).permutation(len(chosen))[: plan.random]
            for kind, rows in (("chosen", best), ("random", drawn)):
                arms[kind].append(figures(plan, retrained(plan, rows, weights, Path(scratch), seed)))
                print(f"  {kind}, seed {seed}: home, field {arms[kind][-1]}", file=sys.stderr)
        after = {kind: 100 * np.array(rows) for kind, rows in arms.items()}
        ours, lot = (float(rows[:, 1].mean()) for rows in after.values())
        error = float(after["random"][:, 1].std(ddof=1) / plan.draws**0.5) if plan.draws > 1 else 0.0
        name = f"{plan.name}: mAP, another look, {plan.ours} chosen pictures against {plan.random} by lot"
        yield at_least(name, round(ours, 2), "%", round(lot, 2), round(lot, 2)) if not quick else Row(name, ours, "%", lot)
        yield Row(f"{plan.name}: standard error of {plan.draws} draws by lot", error, "points")
        lost = 100 * home - min(float(rows[:, 0].min()) for rows in after.values())
        yield Row(f"{plan.name}: mAP lost at home, at most", lost, "points")


def made(folder: Path, quick: bool) -> Plan:
    """The project whose training pictures are halves."""
    source = ROOT / ("tests/projects/shapes" if quick else "models/edgeloop_models/blood_cells")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    own = (folder / "data.py").read_text() + "\n\nwhole = shapes\n" if quick else BLOOD
    (folder / "data.py").write_text(own + HALVES)
    recipe = folder / "recipe.yaml"
    name = "boxes_loop_quick" if quick else "boxes_loop"
    ours = {"name": f"name: {name}", "data": "data: data.py:home"}
    recipe.write_text("\n".join(ours.get(line.split(":")[0], line) for line in recipe.read_text().splitlines()))
    changes = ("target={}", *(("train.epochs=15",) if quick else SMALLER))
    draws = int(os.environ.get("DRAWS", "1" if quick else "2"))
    return Plan(name, folder, changes, *((6, 12) if quick else (30, 60)), draws)


def recipe_of(plan: Plan, *more: Any) -> Any:
    from edgeloop_pipeline.recipe import recipe as recipes

    return recipes.load(recipes.find(str(plan.folder)), [*plan.changes, *more])


def stream(plan: Plan) -> Any:
    """The other half of the training pictures, as the device sees them, with their boxes."""
    from edgeloop_pipeline.recipe.project import Project

    seen = Project(recipe_of(plan, "data=data.py:field")).splits.train
    return replace(seen, values=another_look(seen.values))


def another_look(values: Any) -> Any:
    """Pictures (N, height, width, 3) uint8 through another microscope: its lamp's colours and its focus."""
    from scipy.ndimage import gaussian_filter

    shown = (values.astype(np.float64) / 255) ** GAMMA @ COLOURS.T * 255 + OFFSET
    return gaussian_filter(shown, (0, BLUR_PIXELS, BLUR_PIXELS, 0)).clip(0, 255).astype(np.uint8)


def choice(bundle: Any, plan: Plan) -> list[float]:
    """What each picture of the stream is worth to the device that answers it; 0 where it does not keep it."""
    from edgeloop_agent.drift.monitor import DriftFollower
    from edgeloop_agent.engine import Answer, Engine
    from edgeloop_agent.outbox.answers import doubt_of
    from edgeloop_agent.outbox.selection import SampleSelector
    from edgeloop_contract.bench_report import VariantChoice

    manifest, worth = bundle.manifest, list[float]()
    assert manifest.drift is not None
    engine = Engine(bundle, VariantChoice("onnx-int8", 1, "benchmark"))
    follower = DriftFollower(manifest, manifest.drift, FALSE_ALARMS)
    choose = SampleSelector(0.0, UNCERTAIN_SHARE, 1e6, lambda: 1.0, lambda: 0.0)
    choose.start_from(manifest.drift.reliability)
    for value in stream(plan).values:
        choose.allowance = 1e9
        sample = value[None]
        outputs = engine.outputs({manifest.inputs[0].name: sample}, {})
        look, doubt = follower.observe(sample, outputs), doubt_of(manifest.task, Answer(0, sample=sample, scores=outputs))
        assert doubt is not None
        chosen = choose(look.features, 1 - doubt.most, look.drifting, None, doubt.total)
        worth.append(chosen.value if chosen else 0.0)
    return worth


def trained(plan: Plan) -> Path:
    """The folder of the network that was trained last."""
    from edgeloop_pipeline.cache.store import Store

    entry = Store(RUNS).last(plan.name, "train")
    assert entry is not None
    return Store(RUNS).folder("train", entry.key)


def retrained(plan: Plan, rows: Any, weights: Path, scratch: Path, seed: int) -> Path:
    """The folder of a network that went on from the first one with these pictures, trained as `edgeloop retrain` does it."""
    from edgeloop_pipeline.data.field_data import Field, settings
    from edgeloop_pipeline.retraining.cycle import WARM_START_RATE

    seen, count = stream(plan), len(rows)
    names = np.array([f"p{row:04}" for row in rows])
    validating = np.arange(count) % 10 == 9
    none = np.zeros(count, bool)
    field = Field(
        seen.values[rows], seen.labels[rows], np.full(count, "pi"), names, names, np.arange(count, dtype=float), none,
        np.where(validating, "validation", "train"), ~none, none, none, np.array(recipe_labels(plan)),
    )  # fmt: skip
    rate = recipe_of(plan).stages["train"]["learning_rate"]
    more = [
        f"field={json.dumps(settings(field.save(scratch).resolve(), 'detection'))}", f"train.start={weights.resolve()}",
        f"train.learning_rate={rate * WARM_START_RATE}", f"seed={seed}", *(f"{stage}=off" for stage in AFTER_TRAINING),
    ]  # fmt: skip
    edgeloop("run", plan.folder, "--runs", RUNS, *(word for change in (*plan.changes, *more) for word in ("--set", change)))
    return trained(plan)


def recipe_labels(plan: Plan) -> tuple[str, ...]:
    from edgeloop_pipeline.recipe.project import Project

    return tuple(Project(recipe_of(plan)).splits.labels)


def figures(plan: Plan, folder: Path) -> tuple[float, float]:
    """mAP@0.5:0.95 of a float network on the test pictures, and on the same with the other look."""
    from edgeloop_pipeline.networks import saved_network
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.tasks.registry import task_for
    from edgeloop_pipeline.training.scoring import scores_of

    project = Project(recipe_of(plan))
    splits = project.splits
    saved = saved_network.load(project, folder)
    found = []
    for test in (splits.test, replace(splits.test, values=another_look(splits.test.values))):
        found.append(task_for(splits).judge(scores_of(saved.network, saved.normalization, test), test)[0])
    return found[0], found[1]


if __name__ == "__main__":
    main(measure)
