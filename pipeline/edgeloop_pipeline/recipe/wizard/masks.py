"""Examines pictures with masks and plans a network that labels their pixels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE
from edgeloop_pipeline.data.datasets.coco_masked import CocoMasks
from edgeloop_pipeline.data.datasets.masked import WHITE, Meaning, PictureMasks, stored_values
from edgeloop_pipeline.data.datasets.scanning import is_hidden
from edgeloop_pipeline.data.masks import BACKGROUND
from edgeloop_pipeline.data.types import NAMES
from edgeloop_pipeline.recipe.wizard.facts import Facts, facts_of
from edgeloop_pipeline.recipe.wizard.plan import MAX_SHOWN, ProjectPlan, refuse

__all__ = ["has_masks", "look_at_masks", "look_at_outlines"]

FOLDERS = {"images", "masks"}
SIDE, CELL = 256, 16  # of the longer side of a sample, and what each side is a multiple of
MOST_LABELS = 64  # more numbers than that are things, not labels
HALF = 2.1  # of a side: down to it, pixels make one without antialiasing too
SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 24_000, 30, 200  # pictures that training sees


def has_masks(data: Path) -> bool:
    """Whether the folder holds images/ and masks/, and no other folder."""
    return data.is_dir() and {p.name for p in data.iterdir() if p.is_dir() and not is_hidden(p.name)} == FOLDERS


def look_at_masks(data: Path, task: str = "") -> ProjectPlan:
    """Read every picture and every mask once, and return the plan. Raises DataError that lists every problem."""
    wanted_task(data, task)
    pairs = PictureMasks(data).pairs
    facts = facts_of([picture for picture, _ in pairs], "pictures")
    refuse(data, [f"{fact.path.name}: {fact.problem}; repair or remove it" for fact in facts if fact.problem])
    values, pixels, problems = np.zeros(1 << 16, bool), 0, []
    for fact, (_, mask) in zip(facts, pairs, strict=True):
        stored = stored_values(mask)
        if stored.shape != fact.shape[:2]:
            found, wanted = (" × ".join(map(str, shape)) for shape in (stored.shape, fact.shape[:2]))
            problems.append(f"{mask.name}: it has {found} pixels, its picture {wanted}; give both one size")
        values[np.unique(stored)] = True
        pixels += int(np.count_nonzero(stored))
    refuse(data, problems)
    meaning, labels, why = _meaning(np.flatnonzero(values))
    share = pixels / sum(fact.shape[0] * fact.shape[1] for fact in facts)
    says = [
        ("understood", f"masks of {meaning}: {why}"),
        ("labels", f"{', '.join(labels[:MAX_SHOWN])}; rename them in data.py"),
        ("pixels", f"{share:.1%} of them are not 0"),
    ]
    sides = PictureMasks(data, labels, meaning).sides()
    return _plan(data, facts, sides, labels, says, "PictureMasks", {"labels": labels, "masks": meaning})


def look_at_outlines(data: Path, task: str = "") -> ProjectPlan:
    """Read every picture and every outline of COCO once, and return the plan. Raises DataError that lists every problem."""
    wanted_task(data, task)
    made = CocoMasks(data)
    pictures, labels = made.pictures, made.names
    facts = facts_of([picture.path for picture in pictures], "pictures")
    refuse(data, [f"{fact.path.name}: {fact.problem}; repair or remove it" for fact in facts if fact.problem])
    things = [thing for picture in pictures for thing in picture.things if thing.label]
    polygons = sum(thing.outline is not None and bool(thing.outline.polygons) for thing in things)
    counts = Counter(thing.label for thing in things)
    sides = made.sides()
    says = [
        ("understood", f"masks as COCO: {polygons} outlines of polygons, {len(things) - polygons} of run lengths"),
        ("labels", ", ".join(f"{label}: {counts[label]}" if counts[label] else label for label in labels[:MAX_SHOWN])),
        ("overlaps", 'the smaller outline is on top; overlap="later" in data.py: the later one'),
        ("split by", made.split_by()),
        *(("left out" if "left out" in line else "caution", line) for line in made.findings.lines()),
    ]
    return _plan(data, facts, sides, labels, says, "CocoMasks", {})


def wanted_task(data: Path, task: str) -> None:
    """Raises DataError where masks are there and another task is asked for."""
    if task not in ("", "segmentation"):
        raise DataError(f"{data}: has masks, which are for --task segmentation; give class folders or a table for {task}")


def _plan(
    data: Path, facts: list[Facts], every_side: list[str], labels: tuple[str, ...], says: list[tuple[str, str]], kind: str,
    arguments: dict[str, object],
) -> ProjectPlan:  # fmt: skip
    sides = Counter(every_side)
    height, width = _size([fact.shape[:2] for fact in facts])
    grey = sum(len(fact.shape) == 2 or fact.shape[-1] == 1 for fact in facts) * 2 >= len(facts)
    says += [("pictures", f"{len(facts)}, resized to {width}×{height}"), *((name, f"{sides[name]} pictures") for name in NAMES)]
    shrinks = max(max(fact.shape[0] / height, fact.shape[1] / width) for fact in facts) > HALF
    steps = (
        "{step: grayscale}" if grey else "{step: colour}",
        f"{{step: resize, height: {height}, width: {width}{', antialias: true' if shrinks else ''}}}",
    )
    epochs = int(np.clip(SEEN / sides["train"], FEWEST_EPOCHS, MOST_EPOCHS))
    train = (
        f"{{epochs: {epochs}, batch: {int(np.clip(sides['train'] // 8, 2, 8))}, learning_rate: 0.005, optimizer: adamw,"
        " weight_decay: 0.01, schedule: cosine, warm_up: 0.03, average: 0.99, clip_norm: 10}"
    )
    return ProjectPlan(
        f"{sides['train']} training pictures with masks of {len(labels)} labels, {width}×{height}", tuple(says), data, kind,
        arguments, "nuclei", "network.py:segmenter", "{width: small, levels: 5}",
        "augment_upright_masks", steps, train, labels, task="segmentation",
    )  # fmt: skip


def _meaning(values: np.ndarray) -> tuple[Meaning, tuple[str, ...], str]:
    """What the stored values mean, the labels, and why. Raises DataError where they mean nothing."""
    others = values[values != NOWHERE]
    if not len(others) or not values.any():
        raise DataError(f"every mask is {int(values[0])} throughout; give masks with other numbers where something is")
    if values.tolist() == [0, WHITE]:
        return "white", (BACKGROUND, "object"), "values are 0 and 255"
    if others[-1] >= MOST_LABELS:
        why = f"values go up to {int(values[-1])}, so each number is taken for one thing; all of them have one label"
        return "instances", (BACKGROUND, "object"), why
    labels = (BACKGROUND, *(f"label {number}" for number in range(1, int(others[-1]) + 1)))
    return "numbers", labels, f'values go up to {int(others[-1])}; where each is one thing, write masks="instances" in data.py'


def _size(shapes: list[tuple[int, ...]]) -> tuple[int, int]:
    """Height and width of a sample: those of the middle picture, not larger than it must be."""
    tall, wide = np.median(np.array(shapes, float), 0)
    scale = min(1.0, SIDE / max(tall, wide))
    height, width = (max(2 * CELL, round(side * scale / CELL) * CELL) for side in (tall, wide))
    return height, width
