"""Pictures of coloured shapes with masks of them, and a project that learns them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from annotated import HEIGHT, LABELS, WIDTH, drawn
from commands import HERE

NAMES = ("background", *LABELS)
COLOURS = {"disc": (30, 60, 220), "square": (220, 50, 30)}
NETWORK = HERE.parent / "models" / "edgeloop_models" / "nuclei" / "network.py"
DATA = """from pathlib import Path

from edgeloop_pipeline.data.augmentations import augment_masks as augment
from edgeloop_pipeline.data.datasets import PictureMasks


def data():
    return PictureMasks(Path(__file__).parent.parent / "data", ("background", "disc", "square"))
"""
RECIPE = """name: shapes
version: 1
task: segmentation
network: network.py:segmenter
network_args: {width: small, levels: 2}
data: data.py:data
augment: data.py:augment
preprocessing: [{step: colour}, {step: resize, height: 48, width: 64}]
normalize: {mean: [127], std: [64]}
target: {max_int8_drop: 0.02}
stages:
  train: {epochs: 12, batch: 8, optimizer: adamw, learning_rate: 0.01, schedule: cosine, average: 0.9, workers: 0, precision: float32}
  quantize: {}
  export: {float32: false}
  verify: {canary_samples: 4, layer_samples: 2}
  profile: {seconds: 0.01}
  package: {}
  report: {}
"""


def masked_picture(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (HEIGHT, WIDTH, 3) and the number of each pixel's label, both uint8."""
    picture, _ = drawn(rng)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name, colour in COLOURS.items():
        mask[(picture == colour).all(-1)] = NAMES.index(name)
    return picture, mask


def masked(folder: Path, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """images/ and masks/ of `count` pictures; the mask of each by its name."""
    rng = np.random.default_rng(seed)
    found = {}
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for i in range(count):
        picture, mask = masked_picture(rng)
        Image.fromarray(picture).save(folder / "images" / f"p{i:03d}.png")
        Image.fromarray(mask).save(folder / "masks" / f"p{i:03d}.png")
        found[f"p{i:03d}.png"] = mask
    return found


def project(root: Path, count: int) -> Path:
    """data/ with `count` pictures, and the project mine/ beside it."""
    masked(root / "data", count)
    folder = root / "mine"
    folder.mkdir()
    shutil.copy(NETWORK, folder)
    (folder / "data.py").write_text(DATA)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder
