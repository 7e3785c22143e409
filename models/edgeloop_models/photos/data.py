"""Crops of photographs that two packages ship. Nobody labelled them: the float network's own answer is the label.

Accuracy is thus agreement with the float network (which agrees with itself in every sample).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeloop_pipeline.data import Array, Split, Splits
from edgeloop_pipeline.data.augmentations import rand_augment
from edgeloop_pipeline.data.download import PackageFile
from edgeloop_pipeline.recipe.user_code import load_object

CLASSES = 1000
MEAN, STD = 127.0, 128.0  # as in recipe.yaml
# Photograph → sha256. What calibrates is never what tests.
PHOTOGRAPHS = {
    "train": {
        "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "grass.png": "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        "camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "page.png": "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
    },
    "validation": {
        "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "gravel.png": "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        "coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
    },
    "test": {
        "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "ihc.png": "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        "brick.png": "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
        "moon.png": "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
    },
}
CROPS = {"train": 384, "validation": 192, "test": 384}


def _file(name: str, digest: str) -> PackageFile:
    if name in ("china.jpg", "flower.jpg"):
        return PackageFile("scikit-learn", "1.7.2", f"sklearn/datasets/images/{name}", digest)
    return PackageFile("scikit-image", "0.25.2", f"skimage/data/{name}", digest)


@dataclass(frozen=True)
class Photos:
    """`network`: whose answers are the labels; its size is that of the crops."""

    network: str

    def files(self) -> Sequence[Path]:
        return [self._size.weights.path(), *(_file(n, d).path() for photos in PHOTOGRAPHS.values() for n, d in photos.items())]

    @property
    def _size(self) -> Any:
        return load_object(Path(__file__).parent, f"network.py:{self.network.upper()}")

    def load(self) -> Splits:
        labels = tuple(f"class {i}" for i in range(CLASSES))
        return Splits(labels, *(self._split(name, seed) for seed, name in enumerate(PHOTOGRAPHS)))

    def _split(self, name: str, seed: int) -> Split:
        rng = np.random.default_rng(seed)
        photos = [Image.open(_file(n, d).path()).convert("RGB") for n, d in PHOTOGRAPHS[name].items()]
        rows = np.arange(CROPS[name]) % len(photos)
        crops = np.stack([_crop(photos[i], self._size.side, rng) for i in rows])
        return Split(crops, _answers(self.network, crops), np.array([list(PHOTOGRAPHS[name])[i] for i in rows]))


def _crop(photo: Image.Image, pixels_a_side: int, rng: np.random.Generator) -> Array:
    """A quarter to all of the shorter side, anywhere, mirrored half of the time, lighter or darker."""
    side = int(min(photo.size) * rng.uniform(0.25, 1.0))
    left, top = (int(rng.integers(0, size - side + 1)) for size in photo.size)
    crop = photo.crop((left, top, left + side, top + side)).resize((pixels_a_side, pixels_a_side), Image.Resampling.BILINEAR)
    pixels = np.asarray(crop, np.float32) * rng.uniform(0.7, 1.3)
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return pixels.clip(0, 255).astype(np.uint8)


def _answers(name: str, crops: Array) -> Array:
    import torch

    here = Path(__file__).parent
    network = load_object(here, f"network.py:efficientnet_{name}")((3, *crops.shape[1:3]), CLASSES).eval()
    load_object(here, "network.py:pretrained")(network)
    answers = []
    with torch.no_grad():
        for start in range(0, len(crops), 32):
            x = (torch.from_numpy(crops[start : start + 32]).float() - MEAN) / STD
            answers.append(network(x.permute(0, 3, 1, 2)).argmax(1))
    return torch.cat(answers).numpy()


augment = rand_augment


def photos() -> Photos:
    return Photos("lite0")


def photos_of_lite2() -> Photos:
    return Photos("lite2")
