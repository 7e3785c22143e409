"""BCCD: 364 photographs of blood under a microscope with boxes of red and white cells and platelets, and an official split."""

from __future__ import annotations

from pathlib import Path

from edgeloop_pipeline.data.augmentations import augment_boxes as augment  # noqa: F401
from edgeloop_pipeline.data.datasets import PictureBoxes
from edgeloop_pipeline.data.download import DownloadedFolder

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
