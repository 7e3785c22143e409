"""Examines pictures with masks and plans a network that labels their pixels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE
from edgeloop_pipeline.data.datasets.masked import WHITE, Meaning, PictureMasks, stored_values
from edgeloop_pipeline.data.datasets.scanning import is_hidden
from edgeloop_pipeline.data.masks import BACKGROUND
from edgeloop_pipeline.data.types import NAMES
from edgeloop_pipeline.recipe.wizard.facts import facts_of
from edgeloop_pipeline.recipe.wizard.plan import MAX_SHOWN, ProjectPlan, refuse

__all__ = ["has_masks", "look_at_masks"]

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
    if task not in ("", "segmentation"):
        raise DataError(f"{data}: has masks, which are for --task segmentation; give class folders or a table for {task}")
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
    made = PictureMasks(data, labels, meaning)
    sides = Counter(made.sides())
    height, width = _size([fact.shape[:2] for fact in facts])
    grey = sum(len(fact.shape) == 2 or fact.shape[-1] == 1 for fact in facts) * 2 >= len(facts)
    share = pixels / sum(fact.shape[0] * fact.shape[1] for fact in facts)
    says = (
        ("understood", f"masks of {meaning}: {why}"),
        ("labels", f"{', '.join(labels[:MAX_SHOWN])}; rename them in data.py"),
        ("pixels", f"{share:.1%} of them are not 0"),
        ("pictures", f"{len(pairs)}, resized to {width}×{height}"),
        *((name, f"{sides[name]} pictures") for name in NAMES),
    )
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
        f"{sides['train']} training pictures with masks of {len(labels)} labels, {width}×{height}", says, data, "PictureMasks",
        {"labels": labels, "masks": meaning}, "nuclei", "network.py:segmenter", "{width: small, levels: 5}",
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
