"""How a detector's outputs say boxes, as the manifest declares it: our own heads, and those that are common elsewhere."""

from typing import Annotated, Literal

import msgspec

from edgeloop_contract.settings import NonNegativeFloat, PositiveFloat, PositiveInt
from edgeloop_contract.tensors import Part

__all__ = [
    "MAX_POINTS", "AnchorLevel", "Boxed", "Centres", "Distances", "Final", "Grid", "Heatmap", "Layout", "PointAxes", "PointMaps",
    "PointRows", "Pose", "Priors", "Rows",
]  # fmt: skip

MAX_POINTS = 1000  # of a pose

Channels = Literal["last", "first"]  # of an output: (places, values) or (values, places)
Activation = Literal["sigmoid", "softmax", "none"]  # what makes probabilities of class scores
PoseActivation = Literal["sigmoid", "none"]
Refine = Literal["quarter", "dark", "none"]
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
    `scores`: another output that holds the scores, (places, labels), or with `scores_channels` first (labels, places); rows are
    boxes then (DETR, YOLO-NAS, DAMO-YOLO, PP-YOLOE without its suppression).
    """

    rows: str = ""
    scores: str = ""
    channels: Channels = "last"
    scores_channels: Channels = "last"
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
    """Finished answers: rows of x1, y1, x2, y2, score, label (YOLOv10 and other end-to-end exports). Nothing is suppressed.

    `label_first`: of label, score, x1, y1, x2, y2 (PaddleDetection). `scores`, `labels`: other outputs with the scores and the
    numbers of labels, one for each row: rows are four edges then, and the score where `scores` is "" (RT-DETR and D-FINE by their
    own exporters, torchvision, mmdeploy, TFLite's detection postprocessing). Where `scores` is said and `labels` is "", all have
    the first label. `first_label`: the number of the first label; a smaller one is nothing. `y_first`: edges are y1, x1, y2, x2.
    `middles`: middle, width and height in place of edges (RT-DETR by ultralytics). `points`: how many a row has behind its label.
    `coefficients`: of its mask, there.
    """

    rows: str = ""
    scores: str = ""
    labels: str = ""
    normalised: bool = False
    y_first: bool = False
    middles: bool = False
    label_first: bool = False
    first_label: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    points: Points = 0
    point_values: PointValues = 3
    coefficients: Coefficients = 0

    def __post_init__(self) -> None:
        if self.label_first and (self.scores or self.labels):
            raise ValueError("label_first is of rows with score and label; leave out the outputs of scores and labels")

    @property
    def columns(self) -> int:
        """How many values a row has."""
        own = 2 if not (self.scores or self.labels) else 0 if self.scores else 1
        return 4 + own + self.points * self.point_values + self.coefficients


class Centres(_Layout, frozen=True, kw_only=True, tag="centres"):
    """One output of raw rows x, y, width, height, objectness, scores of cells, row by row, fine grid first (YOLOX's own exporter).

    Middle: (value + cell) × stride; size: e^value × stride.
    """

    strides: Strides
    rows: str = ""
    activation: Activation = "none"


class Priors(_Layout, frozen=True, kw_only=True, tag="priors"):
    """Boxes relative to anchors at the cells' middles, all anchors of a cell after the other (SSD, RetinaNet).

    Middle: prior + value × variance × size; size: prior × e^(value × variance), or not `exponential`: prior × value × variance
    (BlazeFace). `background`: the first score is that of nothing. `points`: how many stand behind the four values, x and y each,
    as the middle is said.
    """

    levels: Annotated[list[AnchorLevel], msgspec.Meta(min_length=1, max_length=8)]
    boxes: str = "boxes"
    scores: str = "scores"
    variances: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (0.1, 0.1, 0.2, 0.2)
    y_first: bool = False  # values are y, x, height, width, as TensorFlow's detection models give them
    exponential: bool = True
    background: bool = True
    activation: Activation = "softmax"
    points: Points = 0

    @property
    def columns(self) -> int:
        """How many values the boxes' output has at each place."""
        return 4 + 2 * self.points


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

    A point is at the highest cell, moved within it as `refine` says: a quarter of a cell to its higher neighbours; or to the peak
    of the Gaussian that the cells around it make, smoothed over `blur` cells ("dark": Zhang et al. 2020); or not at all.
    `to_edges`: the middles of the outer
    cells are the sample's outer pixels (unbiased coordinates); else the first cell begins with the sample. `offsets`: an output of
    2 × points maps, how far in pixels each point is from its cell, all of y before all of x, in place of refining (PoseNet).
    """

    maps: str = ""
    points: PosePoints
    channels: Channels = "first"
    activation: PoseActivation = "none"
    to_edges: bool = False
    offsets: str = ""
    refine: Refine = "quarter"
    blur: Annotated[int, msgspec.Meta(ge=1, le=31)] = 11

    def __post_init__(self) -> None:
        if self.blur % 2 == 0:
            raise ValueError("blur is an odd number of cells: 11 for maps that were made with a deviation of 2 cells, 17 for 3")


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
Boxed = Distances | Rows | Grid | Centres | Final | Priors | Heatmap
Layout = Boxed | Pose
