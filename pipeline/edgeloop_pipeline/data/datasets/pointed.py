"""Pictures with boxes that have points as a data set: COCO keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.boxes import POINT_VALUES, VALUES, values_of
from edgeloop_pipeline.data.datasets.annotated import PictureBoxes
from edgeloop_pipeline.data.datasets.annotations import coco
from edgeloop_pipeline.data.datasets.annotations.pictures import AnnotatedPicture, Annotations
from edgeloop_pipeline.data.types import Splits

__all__ = ["PicturePoints"]


@dataclass(frozen=True)
class PicturePoints(PictureBoxes):
    """Pictures below `root` with boxes and points as COCO keypoints; else as `PictureBoxes`.

    All categories with boxes must have the same points; those without points are left out. A box without a known point is kept: it
    teaches boxes, and is not judged.
    """

    @cached_property
    def annotations(self) -> Annotations:
        """What the folder holds. Raises DataError where no box has points."""
        found = super().annotations
        names = coco.point_names(found.root) if found.format == "coco" else {}
        labels = tuple(label for label in found.labels if label in names)
        if not labels:
            raise DataError(f"{self.root}: no category with boxes names keypoints; give COCO keypoints, or take task: detection")
        if other := next((label for label in labels if names[label] != names[labels[0]]), None):
            raise DataError(f"{self.root}: {labels[0]} and {other} have different keypoints; give both the same, or leave one out")
        if bare := [label for label in found.labels if label not in names]:
            found.findings.notes.append(f"classes without keypoints, left out: {', '.join(bare)}")
        pictures = tuple(replace(p, boxes=tuple(box for box in p.boxes if box.label in names)) for p in found.pictures)
        none = sum(not any(box.points[2::POINT_VALUES]) for picture in pictures for box in picture.boxes)
        if none:
            first = next(p.path.name for p in pictures if any(not any(b.points[2::POINT_VALUES]) for b in p.boxes))
            found.findings.add("boxes without a known point, which are not judged", first, none)
        return replace(found, labels=labels, pictures=pictures)

    @cached_property
    def points(self) -> tuple[str, ...]:
        """The names of the points of a box."""
        return coco.point_names(self.annotations.root)[self.annotations.labels[0]]

    def load(self) -> Splits:
        """Pictures are read on access. Raises DataError."""
        return replace(super().load(), points=self.points)

    def _rows(self, picture: AnnotatedPicture, at: Mapping[str, int]) -> Array:
        """The boxes (n, 5 + 3 × points) of a picture; unknown points are 0."""
        made = np.zeros((len(picture.boxes), values_of(len(self.points))), np.float32)
        for row, box in zip(made, picture.boxes, strict=True):
            row[0], row[1:VALUES] = at[box.label], box.edges
            points = np.asarray(box.points or [0.0] * (len(row) - VALUES)).reshape(-1, POINT_VALUES)
            row[VALUES:] = np.where(points[:, 2:] > 0, points, 0).reshape(-1)
        return made
