"""Fashion-MNIST (Xiao et al. 2017): 28×28 grey images of ten kinds of clothing; 55k train, 5k validate, the full 10k test."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data import Split, Splits
from edgeloop_pipeline.data.download import Download

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
PACKAGED = Path("/usr/share/datasets/fashion-mnist")
# Digests of the unpacked files: packagers compress anew.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
VALIDATION_IMAGES = 5000


def _file(name: str) -> Download:
    return Download(
        url=f"{ADDRESS}/{name}.gz", sha256=SHA256[name], places=(PACKAGED / f"{name}.gz",), unpack=gzip.decompress,
        debian="dataset-fashion-mnist",
    )  # fmt: skip


class Fashion:
    """The IDX files, from Debian's package dataset-fashion-mnist or their canonical address."""

    def files(self) -> Sequence[Path]:
        return [_file(name).path() for name in SHA256]

    def load(self) -> Splits:
        images, labels = _idx("train-images-idx3-ubyte")[..., None], _idx("train-labels-idx1-ubyte").astype(np.int64)
        order = np.random.default_rng(0).permutation(len(labels))
        validation, train = order[:VALIDATION_IMAGES], order[VALIDATION_IMAGES:]
        test = Split(_idx("t10k-images-idx3-ubyte")[..., None], _idx("t10k-labels-idx1-ubyte").astype(np.int64))
        return Splits(LABELS, Split(images[train], labels[train]), Split(images[validation], labels[validation]), test)


def _idx(name: str) -> Any:
    """One IDX file of unsigned bytes: a magic number with the rank, the sizes, the data."""
    data = gzip.decompress(_file(name).path().read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4)
    if len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise DataError(f"{name}: {len(data)} bytes do not hold shape {tuple(shape)}; fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def fashion() -> Fashion:
    return Fashion()


def augment(batch: Any, generator: Any) -> Any:
    """Mirror, move by up to two pixels, and blank an 8×8 patch half of the time. `batch`: (N, 28, 28, 1) uint8."""
    import torch

    n, size = len(batch), batch.shape[1]
    padded = torch.nn.functional.pad(batch[..., 0], (2, 2, 2, 2))
    at = torch.arange(size)
    left, top = (torch.randint(0, 5, (n, 1), generator=generator) for _ in range(2))
    mirrored = torch.rand((n, 1), generator=generator) < 0.5
    columns = left + torch.where(mirrored, size - 1 - at, at)
    images = padded[torch.arange(n)[:, None, None], (top + at)[:, :, None], columns[:, None, :]]
    row, column = (torch.randint(0, size, (n, 1), generator=generator) for _ in range(2))
    patch = ((at - row).abs() < 4)[:, :, None] & ((at - column).abs() < 4)[:, None, :]
    erased = torch.rand((n, 1, 1), generator=generator) < 0.5
    return images.masked_fill(patch & erased, 0)[..., None]
