"""Field samples of small projects of every task, as a hub stores them, with what a person says of each."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation
from edgeloop_contract.masks import run_lengths
from edgeloop_contract.sample_messages import StoredSample
from pointed import drawn

RECORDING = 2  # samples of one recording


def stored(model: str, number: int, values: np.ndarray, label: str | None = None, said: Annotation | None = None) -> StoredSample:
    """One sample of one of two devices."""
    return StoredSample(
        device=f"pi-{number // RECORDING % 2}", key=f"sample-{number:06}", taken=float(number), kind="uncertain", random=0, model=model,
        sha256="0" * 64, recording=f"r{number // RECORDING}", window=0, prediction="", confidence=0.5, value=1.0, label=label, truth="",
        at=1.0, labelled=1.0 + number, dtype=str(values.dtype), shape=list(values.shape),
        data=zlib.compress(np.ascontiguousarray(values).tobytes()), labelled_itself=True, annotation=said,
    )  # fmt: skip


def shapes(model: str, count: int, seed: int = 0) -> list[StoredSample]:
    """As tests/projects/shapes, in dim light: bars and squares on a dark ground."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        picture = rng.integers(10, 60, (48, 64, 3)).astype(np.uint8)
        label = int(rng.integers(0, 2))
        tall, wide = (14, 14) if label else (8, 24)
        x, y = int(rng.integers(0, 64 - wide)), int(rng.integers(0, 48 - tall))
        picture[y : y + tall, x : x + wide] = (110, 20, 20) if label else (20, 20, 110)
        box = AnnotatedBox(("bar", "square")[label], (float(x), float(y), float(x + wide), float(y + tall)))
        made.append(stored(model, i, picture, said=Annotation(boxes=[box])))
    return made


def pitches(model: str, count: int, seed: int = 0) -> list[StoredSample]:
    """As tests/projects/pitch, from a sensor with an offset."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        pitch, loudness = rng.uniform(1, 6), rng.uniform(0.3, 1.0)
        wave = loudness * np.sin(2 * np.pi * pitch * np.arange(32) / 50 + rng.uniform(0, 6.28)) + rng.normal(0, 0.02, 32) + 0.3
        counts = np.round(wave[:, None] / 0.0001).astype(np.int16)
        made.append(stored(model, i, counts, said=Annotation(values=[float(pitch), float(loudness)])))
    return made


def stripes(model: str, count: int, seed: int = 0) -> list[StoredSample]:
    """As tests/projects/odd, turned by a quarter; every third recording has a spot."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        rows = np.sin(np.arange(12) * 0.9 + rng.uniform(0, 6.28))
        image = 128 + 100 * np.repeat(rows[None], 12, 0) + rng.normal(0, 6, (12, 12))
        odd = i // RECORDING % 3 == 0
        if odd:
            y, x = rng.integers(1, 10, 2)
            image[y : y + 2, x : x + 2] = 250
        made.append(stored(model, i, image.clip(0, 255).astype(np.uint8)[..., None], label="spot" if odd else "normal"))
    return made


def masks(model: str, count: int, seed: int = 0) -> list[StoredSample]:
    """Discs and squares in other colours, in samples of 48 × 64 pixels."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        picture = rng.integers(20, 60, (48, 64, 3)).astype(np.uint8)
        label, side = ("disc", "square")[i % 2], int(rng.integers(10, 18))
        y, x = int(rng.integers(0, 48 - side)), int(rng.integers(0, 64 - side))
        rows, columns = np.mgrid[0:48, 0:64]
        there = (rows >= y) & (rows < y + side) & (columns >= x) & (columns < x + side)
        if label == "disc":
            there = (rows - y - side / 2 + 0.5) ** 2 + (columns - x - side / 2 + 0.5) ** 2 <= (side / 2) ** 2
        picture[there] = (20, 60, 120) if label == "disc" else (120, 60, 20)
        said = Annotation(masks=[AnnotatedMask(label, (48, 64), run_lengths(there))])
        made.append(stored(model, i, picture, said=said))
    return made


def chords(model: str, count: int, seed: int = 0) -> list[StoredSample]:
    """As tests/projects/chords, from a sensor that is less sensitive and has an offset."""
    rng, made, hertz = np.random.default_rng(seed), [], np.array([1.5, 4.0, 9.0])
    for i in range(count):
        there = rng.random(3) < [0.5, 0.3, 0.3]
        tones = np.sin(2 * np.pi * hertz[:, None] * np.arange(48) / 50 + rng.uniform(0, 6.28))
        wave = 0.3 * (there @ tones + rng.normal(0, 0.5, 48)) + 1.5
        names = [name for name, here in zip(("low", "middle", "high"), there, strict=True) if here]
        made.append(stored(model, i, np.round(wave[:, None] / 0.001).astype(np.int16), said=Annotation(labels=names)))
    return made


def worms(model: str, count: int, seed: int = 0) -> list[StoredSample]:
    """As tests/support/pointed.py, at half the size, in other colours: heads and tails of worms in dim light."""
    rng, made = np.random.default_rng(seed), []
    for i in range(count):
        picture, found = drawn(rng)
        small = (picture[::2, ::2] // 2)[..., [1, 2, 0]]
        boxes = []
        for worm in found:
            x1, y1, x2, y2, *places = (value / 2 for value in (*worm.box, *worm.head, *worm.tail))
            boxes.append(AnnotatedBox("worm", (x1, y1, x2, y2), points=[(places[0], places[1], 2), (places[2], places[3], 1)]))
        made.append(stored(model, i, np.ascontiguousarray(small), said=Annotation(boxes=boxes)))
    return made


MAKERS: dict[str, Callable[[str, int], list[StoredSample]]] = {
    "detection": shapes, "regression": pitches, "anomaly": stripes, "segmentation": masks, "multilabel": chords,
    "keypoints": worms,
}  # fmt: skip
