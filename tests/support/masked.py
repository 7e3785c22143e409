"""Pictures of coloured shapes with masks of them, and a project that learns them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotated import HEIGHT, LABELS, WIDTH, drawn
from commands import HERE
from edgeloop_contract.masks import run_lengths

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


def outlined(folder: Path, count: int, how: str = "polygons", boxes: bool = False) -> dict[str, np.ndarray]:
    """images/ and annotations.json with an outline of each shape: "polygons", "lengths" or "text"."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    found = {}
    for number in range(count):
        picture, mask = masked_picture(rng)
        name = f"p{number:03d}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for label in np.unique(mask[mask > 0]).tolist():
            rows.append(
                {"id": len(rows), "image_id": number, "category_id": label + 4, "segmentation": outline(mask == label, how)}
            )
            if boxes:
                y, x = np.nonzero(mask == label)
                rows[-1]["bbox"] = [int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1]
        found[name] = mask
    categories = [{"id": number + 5, "name": name} for number, name in enumerate(LABELS)]
    (folder / "annotations.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return found


def outline(mask: np.ndarray, how: str) -> object:
    """COCO's field `segmentation` of a mask: a polygon for each run of pixels in a row, or run lengths by COCO's own tools."""
    if how == "polygons":
        edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        runs = zip(np.argwhere(edges == 1).tolist(), np.argwhere(edges == -1).tolist(), strict=True)
        return [[x1, y, x2, y, x2, y + 1, x1, y + 1] for (y, x1), (_, x2) in runs]
    if how == "lengths":
        return {"size": list(mask.shape), "counts": run_lengths(mask)}
    tools = pytest.importorskip("faster_coco_eval.core.mask")
    made = tools.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return {"size": list(mask.shape), "counts": made if isinstance(made, str) else made.decode()}
