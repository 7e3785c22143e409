"""Pictures of worms, each with a red head and a blue tail, as COCO keypoints, and a project that learns them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from commands import HERE

POINTS = ("head", "tail")
WIDTH, HEIGHT = 128, 96
NETWORK = HERE.parent / "models" / "edgeloop_models" / "blood_cells" / "network.py"
DATA = """from pathlib import Path

from edgeloop_pipeline.data.augmentations import augment_points
from edgeloop_pipeline.data.datasets import PicturePoints

augment = augment_points(("head", "tail"))


def data():
    return PicturePoints(Path(__file__).parent.parent / "data")
"""
RECIPE = """name: worms
version: 1
task: keypoints
network: network.py:detector
network_args: {width: small, points: 2}
data: data.py:data
augment: data.py:augment
preprocessing: [{step: colour}, {step: resize, height: 48, width: 64}]
normalize: {mean: [127], std: [64]}
target: {max_int8_drop: 0.3}
stages:
  train:
    {epochs: 30, batch: 8, optimizer: adamw, learning_rate: 0.004, schedule: cosine, average: 0.9, workers: 0, precision: float32,
     channels_last: true}
  quantize: {}
  export: {float32: false}
  verify: {canary_samples: 8, layer_samples: 2}
  profile: {seconds: 0.01}
  package: {}
  report: {}
"""


class Worm(NamedTuple):
    """Edges of the box, and where head and tail are."""

    box: tuple[float, float, float, float]
    head: tuple[float, float]
    tail: tuple[float, float]


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, list[Worm]]:
    """A noisy picture with one or two worms that do not touch."""
    noise = rng.integers(95, 125, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    pen, worms = ImageDraw.Draw(image), list[Worm]()
    for _ in range(int(rng.integers(1, 3))):
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(24, 36)
        middle = np.array([rng.uniform(26, WIDTH - 26), rng.uniform(26, HEIGHT - 26)])
        reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
        head, tail = middle + reach, middle - reach
        low, high = np.minimum(head, tail) - 6, np.maximum(head, tail) + 6
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
        if any(box[0] < w.box[2] and w.box[0] < box[2] and box[1] < w.box[3] and w.box[1] < box[3] for w in worms):
            continue
        pen.line([*head, *tail], fill=(230, 230, 120), width=6)
        for (x, y), colour in ((tail, (30, 60, 220)), (head, (220, 40, 30))):
            pen.ellipse([x - 6, y - 6, x + 6, y + 6], fill=colour)
        worms.append(Worm(box, (float(head[0]), float(head[1])), (float(tail[0]), float(tail[1]))))
    return np.asarray(image), worms


def pointed(folder: Path, count: int, seed: int = 0) -> dict[str, list[Worm]]:
    """images/ and annotations.json with `count` pictures; the worms of each by its name. Every seventh tail is not known."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    found = {}
    for number in range(count):
        picture, worms = drawn(rng)
        name = f"w{number:03d}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for worm in worms:
            x1, y1, x2, y2 = worm.box
            tail = [0, 0, 0] if len(rows) % 7 == 6 else [*worm.tail, 2]
            points = [*worm.head, 2, *tail]
            row = {"id": len(rows), "image_id": number, "category_id": 3, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            rows.append({**row, "keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])})
        found[name] = worms
    categories = [{"id": 3, "name": "worm", "keypoints": list(POINTS), "skeleton": [[1, 2]]}]
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return found


def project(root: Path, count: int) -> Path:
    """data/ with `count` pictures, and the project mine/ beside it."""
    pointed(root / "data", count)
    folder = root / "mine"
    folder.mkdir()
    shutil.copy(NETWORK, folder)
    (folder / "data.py").write_text(DATA)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder
