"""Examines pictures with boxes and plans a detector for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.data.datasets.annotated import PictureBoxes
from edgeloop_pipeline.data.datasets.annotations.coco import has_outlines
from edgeloop_pipeline.data.datasets.annotations.formats import FORMATS
from edgeloop_pipeline.data.datasets.annotations.pictures import Annotations
from edgeloop_pipeline.data.datasets.pointed import PicturePoints
from edgeloop_pipeline.data.types import NAMES
from edgeloop_pipeline.recipe.wizard.facts import Facts, facts_of
from edgeloop_pipeline.recipe.wizard.plan import MAX_SHOWN, ProjectPlan, refuse

__all__ = ["look_at_boxes", "look_at_points", "wanted_task"]

SIDES = (320, 416, 512)  # of the longer side of a sample
CELL = 16  # a side is a multiple of the coarsest grid
SMALL, SMALL_SHARE = 12.0, 10  # pixels that all boxes but these per cent should have in a sample
HALF = 2.0  # of a side: down to it, two pixels make one without antialiasing too
ASPECTS = 0.15  # pictures whose shapes differ by more are put into a letterbox
SEEN, FEWEST_EPOCHS, MOST_EPOCHS = 30_000, 30, 300  # pictures that training sees


def look_at_points(data: Path) -> ProjectPlan:
    """The same of boxes with points: COCO keypoints."""
    made = PicturePoints(data)
    plan = look_at_boxes(data, "coco", made)
    points = made.points
    known = Counter(i for p in made.annotations.pictures for box in p.boxes for i, v in enumerate(box.points[2::3]) if v > 0)
    shown = ", ".join(f"{name}: {known[i]}" for i, name in enumerate(points[:MAX_SHOWN]))
    says = [("understood", "boxes with points as COCO keypoints"), ("points", f"{len(points)}, known are {shown}"), *plan.says[1:]]
    return replace(
        plan, says=tuple(says), kind="PicturePoints", task="keypoints", augment=f"augment_points({points!r})",
        network_args=f"{{width: medium, depths: [1, 2], points: {len(points)}}}", seen=f"{plan.seen}; {len(points)} points each",
    )  # fmt: skip


def look_at_boxes(data: Path, kind: str, made: PictureBoxes | None = None) -> ProjectPlan:
    """Read every box and every picture once, and return the plan. Raises DataError that lists every problem."""
    made = made or PictureBoxes(data)
    found = made.annotations
    sides = made.sides(found)
    facts = facts_of([picture.path for picture in found.pictures], "pictures")
    bad = [fact for fact in facts if fact.problem]
    refuse(data, [f"{fact.path.name}: {fact.problem}; repair or remove it" for fact in bad])
    height, width, letterbox = _size(found)
    grey = _grey(facts)
    boxes = [box for picture in found.pictures for box in picture.boxes]
    counts = Counter(box.label for box in boxes)
    scale = [min(height / p.height, width / p.width) for p in found.pictures for _ in p.boxes]
    pixels = np.array([np.sqrt((b.x2 - b.x1) * (b.y2 - b.y1)) * s for b, s in zip(boxes, scale, strict=True)])
    shown = ", ".join(f"{label}: {counts[label]}" for label in found.labels[:MAX_SHOWN])
    few, middle, many = (round(float(v)) for v in np.percentile(pixels, [5, 50, 95]))
    says = [
        ("understood", f"boxes as {FORMATS[kind].title}"),
        ("boxes", f"{shown}{f', … ({len(counts)} labels)' if len(counts) > MAX_SHOWN else ''}"),
        ("pictures", f"{len(found.pictures)} of {_sizes(found)}; {'letterboxed' if letterbox else 'resized'} to {width}×{height}"),
        ("sizes", f"most boxes are {few} to {many} pixels there, half are below {middle}"),
        *((name, _split_line(found, sides, name)) for name in NAMES),
        ("split by", made.split_by()),
        *_equal(found, sides),
        *_outlined(data, kind),
        *(("left out" if "left out" in line or "boxes" in line else "caution", line) for line in found.findings.lines()),
    ]
    count = sides.count("train")
    step = "letterbox" if letterbox else "resize"
    steps = (
        "{step: grayscale}" if grey else "{step: colour}",
        f"{{step: {step}, height: {height}, width: {width}{', antialias: true' if _shrinks(found, height, width) else ''}}}",
    )
    seen = f"{count} training pictures with {len(found.labels)} labels of boxes, {width}×{height}"
    return ProjectPlan(
        seen, tuple(says), data, "PictureBoxes", {}, "blood_cells", "network.py:detector", "{width: medium, depths: [1, 2]}",
        "augment_upright_boxes", steps, _train(count), found.labels, task="detection",
    )  # fmt: skip


def _outlined(data: Path, kind: str) -> list[tuple[str, str]]:
    """That the data have masks too, where they have."""
    there = kind == "coco" and has_outlines(data)
    return [("masks", "most boxes have outlines too: --task segmentation labels pixels")] if there else []


def _train(count: int) -> str:
    epochs, batch = int(np.clip(SEEN / count, FEWEST_EPOCHS, MOST_EPOCHS)), int(np.clip(count // 8, 2, 16))
    return (
        f"{{epochs: {epochs}, batch: {batch}, learning_rate: 0.002, optimizer: adamw, weight_decay: 0.05, schedule: cosine,"
        " warm_up: 0.05, average: 0.998, clip_norm: 10}"
    )


def _size(found: Annotations) -> tuple[int, int, bool]:
    """Height and width of a sample, and whether pictures differ so much that they need a letterbox."""
    shapes = np.array([(p.height, p.width) for p in found.pictures], float)
    aspects = shapes[:, 1] / shapes[:, 0]
    letterbox = float(np.ptp(np.log(aspects))) > ASPECTS
    tall, wide = np.median(shapes, 0)
    longest = float(np.median(shapes.max(1)))
    share = np.array([np.sqrt((b.x2 - b.x1) * (b.y2 - b.y1)) / max(p.height, p.width) for p in found.pictures for b in p.boxes])
    small = float(np.percentile(share, SMALL_SHARE))
    side = next((s for s in SIDES if small * s >= SMALL), SIDES[-1])
    side = min(side, max(CELL * 4, int(longest)))
    height, width = (max(CELL * 2, round(side * s / max(tall, wide) / CELL) * CELL) for s in (tall, wide))
    return height, width, letterbox


def _shrinks(found: Annotations, height: int, width: int) -> bool:
    """Whether pixels would be left out without antialiasing, which takes a device more time."""
    return max(max(p.height / height, p.width / width) for p in found.pictures) > HALF + 0.1


def _sizes(found: Annotations) -> str:
    counts = Counter((p.width, p.height) for p in found.pictures)
    (width, height), most = counts.most_common(1)[0]
    return f"{width}×{height} pixels" if len(counts) == 1 else f"{len(counts)} sizes, {most} of {width}×{height}"


def _grey(facts: list[Facts]) -> bool:
    return sum(len(fact.shape) == 2 or fact.shape[-1] == 1 for fact in facts) * 2 >= len(facts)


def _split_line(found: Annotations, sides: list[str], name: str) -> str:
    mine = [picture for picture, side in zip(found.pictures, sides, strict=True) if side == name]
    counts = Counter(box.label for picture in mine for box in picture.boxes)
    shown = ", ".join(f"{label}: {counts[label]}" for label in found.labels[:MAX_SHOWN])
    return f"{len(mine)} pictures with {sum(counts.values())} boxes ({shown})"


def _equal(found: Annotations, sides: list[str]) -> list[tuple[str, str]]:
    """Pictures that are equal byte by byte, in one split or in two."""
    by_content: dict[str, list[int]] = {}
    for i, picture in enumerate(found.pictures):
        by_content.setdefault(sha256(picture.path), []).append(i)
    same = [rows for rows in by_content.values() if len(rows) > 1]
    leaks = [rows for rows in same if len({sides[i] for i in rows} - {""}) > 1]
    lines = []
    if same:
        names = ", ".join(found.pictures[i].path.name for i in same[0][:2])
        lines.append(("duplicates", f"{sum(map(len, same)) - len(same)} pictures are equal to another ({names})"))
    if leaks:
        names = ", ".join(found.pictures[i].path.name for i in leaks[0][:2])
        lines.append(("leakage", f"{len(leaks)} pictures are in two splits ({names}): the test is too easy; remove them from one"))
    return lines


def wanted_task(task: str, data: Path) -> None:
    """Raises DataError where boxes are there and another task is asked for."""
    if task not in ("", "detection"):
        raise DataError(f"{data}: has boxes, which are for --task detection; give class folders or a table for {task}")
