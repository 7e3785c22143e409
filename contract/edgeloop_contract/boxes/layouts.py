"""How a detector's outputs say boxes, as the manifest declares it: our own heads, and those that are common elsewhere."""

from typing import Annotated, Literal

import msgspec

from edgeloop_contract.settings import NonNegativeFloat, PositiveFloat, PositiveInt
from edgeloop_contract.tensors import Part

__all__ = [
    "MAX_POINTS", "AnchorLevel", "Boxed", "Distances", "Final", "Grid", "Heatmap", "Layout", "PointAxes", "PointMaps",
    "PointRows", "Pose", "Priors", "Rows",
]  # fmt: skip

MAX_POINTS = 1000  # of a pose

Channels = Literal["last", "first"]  # of an output: (places, values) or (values, places)
Activation = Literal["sigmoid", "softmax", "none"]  # what makes probabilities of class scores
PoseActivation = Literal["sigmoid", "none"]
Strides = Annotated[list[PositiveInt], msgspec.Meta(min_length=1, max_length=8)]
Points = Annotated[int, msgspec.Meta(ge=0, le=256)]  # of each row
Coefficients = Annotated[int, msgspec.Meta(ge=0, le=256)]
PosePoints = Annotated[int, msgspec.Meta(ge=1, le=MAX_POINTS)]
PointValues = Literal[2, 3]  # x and y; and how sure it is that the point is there, 0 to 1
Pair = Annotated[list[PositiveFloat], msgspec.Meta(min_length=2, max_length=2)]


class AnchorLevel(Part, frozen=True, forbid_unknown_fields=True):
    """The anchors of one grid: each cell of `stride` × `stride` pixels has one box of each (width, height), in pixels."""

    stride: PositiveInt
    sizes: Annotated[list[Pair], msgspec.Meta(min_length=1, max_length=32)]


class _Layout(Part, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="layout"):
    """Base of every layout. A field that a reader does not know would change the answer: it is refused."""


class Distances(_Layout, frozen=True, kw_only=True, tag="distances"):
    """Each cell says how far its box's left, top, right and bottom edges are, in strides (FCOS, NanoDet, raw YOLOv8 heads).

    `boxes`, `scores`: names of the outputs, (cells, 4) and (cells, labels), cells row by row, from the first stride to the last.
    One name for both: one output with both side by side, scores first where `scores_first`. `exponential`: the distances are e to
    the power of the values. `bins`: each distance is the mean of a distribution over 0 to bins − 1, whose logits these are (0:
    plain). `offset`: where in its cell a point lies, 0.5 being the middle.
    """

    strides: Strides
    boxes: str = "boxes"
    scores: str = "scores"
    channels: Channels = "last"
    exponential: bool = False
    bins: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    offset: NonNegativeFloat = 0.5
    scores_first: bool = False
    activation: Activation = "sigmoid"


class Rows(_Layout, frozen=True, kw_only=True, tag="rows"):
    """One output of decoded rows: a box, an objectness where there is one, and scores (YOLOv5 exports; YOLOv8 and v11: "first").

    `corners`: the box is x1, y1, x2, y2; else its middle, width and height. `normalised`: from 0 to 1, else in pixels; the points
    too. `points`: how many a row has behind its scores (YOLO's poses). `coefficients`: of its mask, behind its scores.
    """

    rows: str = ""
    channels: Channels = "last"
    objectness: bool = False
    corners: bool = False
    normalised: bool = False
    activation: Activation = "none"
    points: Points = 0
    point_values: PointValues = 3
    coefficients: Coefficients = 0


class Grid(_Layout, frozen=True, kw_only=True, tag="grid"):
    """One output of raw rows x, y, width, height, objectness, scores; every anchor's whole grid after the other (YOLOv5 heads).

    Middle: (2σ − 0.5 + cell) × stride; size: (2σ)² × anchor.
    """

    levels: Annotated[list[AnchorLevel], msgspec.Meta(min_length=1, max_length=8)]
    rows: str = ""


class Final(_Layout, frozen=True, kw_only=True, tag="final"):
    """One output of finished answers, rows of x1, y1, x2, y2, score, label (YOLOv10 and other end-to-end exports).

    Nothing is suppressed. `points`: how many a row has behind its label. `coefficients`: of its mask, there.
    """

    rows: str = ""
    normalised: bool = False
    points: Points = 0
    point_values: PointValues = 3
    coefficients: Coefficients = 0


class Priors(_Layout, frozen=True, kw_only=True, tag="priors"):
    """Boxes relative to anchors at the cells' middles, all anchors of a cell after the other (SSD, RetinaNet).

    Middle: prior + value × variance × size; size: prior × e^(value × variance). `background`: the first score is that of nothing.
    """

    levels: Annotated[list[AnchorLevel], msgspec.Meta(min_length=1, max_length=8)]
    boxes: str = "boxes"
    scores: str = "scores"
    variances: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (0.1, 0.1, 0.2, 0.2)
    y_first: bool = False  # values are y, x, height, width, as TensorFlow's detection models give them
    background: bool = True
    activation: Activation = "softmax"


class Heatmap(_Layout, frozen=True, kw_only=True, tag="heatmap"):
    """A map of scores whose peaks are boxes' middles, with maps of width and height, and of the middle's offset (CenterNet).

    `sizes` and `offsets` are in cells of `stride` pixels; `offsets` "": there is no such output.
    """

    stride: PositiveInt
    scores: str = "heatmap"
    sizes: str = "sizes"
    offsets: str = "offsets"
    channels: Channels = "first"
    activation: Activation = "sigmoid"


class PointRows(_Layout, frozen=True, kw_only=True, tag="point_rows"):
    """One output of finished poses: each is its points, one after the other, whatever the output's axes are (MoveNet, MediaPipe).

    `values`: how many a point has. The first two are x and y (`y_first`: y and x), from 0 to 1 where `normalised`, else in pixels.
    `score_at`: which of them, from 0 on, is the point's score; 0: it has none, and counts as sure. `boxed`: behind the points are
    two corners in the points' order, and the pose's score (MoveNet's several people). `presence`: another output with the pose's
    score, one value; without any, it is the mean of its points' scores.
    """

    rows: str = ""
    points: PosePoints
    values: Annotated[int, msgspec.Meta(ge=2, le=16)] = 3
    score_at: Annotated[int, msgspec.Meta(ge=0, le=15)] = 0
    y_first: bool = False
    normalised: bool = False
    boxed: bool = False
    activation: PoseActivation = "none"
    presence: str = ""
    presence_activation: PoseActivation = "none"

    def __post_init__(self) -> None:
        if self.score_at == 1 or self.score_at >= self.values:
            raise ValueError("score_at is a place behind x and y, and before the number of values; 0: there is no score")


class PointMaps(_Layout, frozen=True, kw_only=True, tag="point_maps"):
    """A map of scores for each point of one pose over the whole sample (HRNet, SimpleBaseline, ViTPose).

    A point is at the highest cell, moved by a quarter of a cell to its higher neighbours. `to_edges`: the middles of the outer
    cells are the sample's outer pixels (unbiased coordinates); else the first cell begins with the sample. `offsets`: an output of
    2 × points maps, how far in pixels each point is from its cell, all of y before all of x, in place of the quarter (PoseNet).
    """

    maps: str = ""
    points: PosePoints
    channels: Channels = "first"
    activation: PoseActivation = "none"
    to_edges: bool = False
    offsets: str = ""


class PointAxes(_Layout, frozen=True, kw_only=True, tag="point_axes"):
    """Two outputs of scores, (points, places), for x and for y of one pose: `split` places are a pixel (SimCC, RTMPose).

    A point's score is the smaller one of its two.
    """

    x: str = "simcc_x"
    y: str = "simcc_y"
    points: PosePoints
    split: PositiveFloat = 2.0
    activation: PoseActivation = "none"


Pose = PointRows | PointMaps | PointAxes
Boxed = Distances | Rows | Grid | Final | Priors | Heatmap
Layout = Boxed | Pose
