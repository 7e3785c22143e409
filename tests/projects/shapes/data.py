"""Squares and bars on noise, with their boxes."""

from __future__ import annotations

import numpy as np

from edgeloop_pipeline.data import Split, Splits
from edgeloop_pipeline.data.augmentations import augment_boxes as augment  # noqa: F401

HEIGHT, WIDTH = 48, 64


class Shapes:
    def files(self) -> list[object]:
        return []

    def load(self) -> Splits:
        return Splits(("bar", "square"), *(_split(count, seed) for seed, count in enumerate((48, 16, 16))))


def _split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    pictures = rng.integers(80, 130, (count, HEIGHT, WIDTH, 3)).astype(np.uint8)
    boxes = []
    for picture in pictures:
        label = int(rng.integers(0, 2))
        tall, wide = (14, 14) if label else (8, 24)
        x, y = int(rng.integers(0, WIDTH - wide)), int(rng.integers(0, HEIGHT - tall))
        picture[y : y + tall, x : x + wide] = (230, 40, 40) if label else (40, 40, 230)
        boxes.append([[label, x, y, x + wide, y + tall]])
    return Split(list(pictures), boxes)


def shapes() -> Shapes:
    return Shapes()
