"""BCCD: 364 photographs of blood under a microscope with boxes of red and white cells and platelets, and an official split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeloop_pipeline.data.augmentations import augment_boxes
from edgeloop_pipeline.data.datasets import PictureBoxes
from edgeloop_pipeline.data.download import DownloadedFolder
from edgeloop_pipeline.data.mosaic import mosaic

REVISION = "d272fb1"
BLOOD = DownloadedFolder(
    url=f"https://github.com/Shenggan/BCCD_Dataset/archive/{REVISION}.tar.gz",
    sha256="8c67ddd1b556303a72d9e95767edc49400f98a17790ab7aca9e0c3406256d300",
    suffix=(".jpg", ".xml", ".txt"),
    inner="BCCD",
    # Beside a checkout of this repository, where a copy may lie.
    places=(Path(__file__).parents[3].parent / "shared" / "data" / "bccd",),
)


def blood_cells() -> PictureBoxes:
    return PictureBoxes(BLOOD.path())


def augment(values: Any, boxes: Any, generator: Any) -> tuple[Any, Any]:
    """Without mosaics the network learns 205 photographs by heart: validation is best at epoch 170, and int8 costs a point."""
    return mosaic(*augment_boxes(values, boxes, generator), generator, share=0.4)
