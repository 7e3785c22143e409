"""Outputs of somebody else's model that say a label for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgeloop_contract.masks import BACKGROUNDS
from edgeloop_contract.tasks import Segmentation

__all__ = ["Grid", "described", "grid_of", "segmentation", "with_background"]


@dataclass(frozen=True)
class Grid:
    """Cells over a picture. `channels`: where the labels stand. `single`: one map, of one label. `numbers`: of their numbers."""

    height: int
    width: int
    channels: Literal["first", "last"]
    single: bool
    numbers: bool = False


def grid_of(shape: Sequence[int], labels: int, picture: Sequence[int], numbers: bool = False) -> Grid | None:
    """Of one sample's output for so many labels: (labels, height, width), labels last, or a map; no finer than the picture.

    `picture`: height, width and channels of the sample. `numbers`: its values are whole. None for another output.
    """
    if len(picture) != 3 or not labels or not 2 <= len(shape) <= 3 or (numbers and labels == 1):
        return None
    single, labels = labels == 1, 1 if numbers else labels
    ways: list[tuple[Literal["first", "last"], Sequence[int]]] = []
    if len(shape) == 2:
        ways = [("first", shape)] if labels == 1 else []
    else:
        ways += [("first", shape[1:])] if shape[0] == labels else []
        ways += [("last", shape[:2])] if shape[2] == labels else []
    for channels, (height, width) in ways:
        if 1 < height <= picture[0] and 1 < width <= picture[1]:
            return Grid(height, width, channels, single, numbers)
    return None


def with_background(labels: Sequence[str]) -> list[str]:
    """The labels of the pixels: beside a single one stands the background."""
    return [BACKGROUNDS[0], *labels] if len(labels) == 1 else list(labels)


def segmentation(
    labels: Sequence[str], grid: Grid, scores: Literal["logits", "probabilities", "numbers"], output: str = ""
) -> Segmentation:
    """The task of such an output."""
    named = with_background(labels)
    background = named[0] if grid.single else next((label for label in named if label.lower() in BACKGROUNDS), "")
    return Segmentation(
        labels=named, height=grid.height, width=grid.width, background=background, channels=grid.channels, scores=scores,
        single=grid.single, output=output,
    )  # fmt: skip


def described(task: Segmentation, what: str) -> str:
    """In words; `what`: the output."""
    held = "the number of the label" if task.scores == "numbers" else f"{task.maps} score{'s' * (task.maps > 1)}"
    said = f"{what} holds {held} of each of {task.height} × {task.width} cells: masks of"
    if task.single:
        return f"{said} {task.labels[1]}"
    if task.background:
        return f"{said} all labels but {task.background}"
    return f"{said} all labels; one called background gets none"
