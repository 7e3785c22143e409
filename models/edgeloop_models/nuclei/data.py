"""Nuclei of the 2018 Data Science Bowl: 538 pictures under a microscope, and a mask of each with a number for each nucleus."""

from __future__ import annotations

from pathlib import Path

from edgeloop_pipeline.data.augmentations import augment_masks as augment  # noqa: F401
from edgeloop_pipeline.data.datasets import PictureMasks

# Beside a checkout of this repository; README.md says how to make a copy.
PLACE = Path(__file__).parents[3].parent / "shared" / "data" / "nuclei"


def nuclei(root: Path = PLACE) -> PictureMasks:
    return PictureMasks(root, ("background", "nucleus"), masks="instances")
