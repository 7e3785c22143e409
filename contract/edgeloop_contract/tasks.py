"""What a model's outputs mean: its task, as the manifest writes it."""

import math
from typing import Annotated, Literal

import msgspec

from edgeloop_contract.boxes import MAX_POINTS, Final, Layout, Rows, has_points
from edgeloop_contract.settings import Fraction01
from edgeloop_contract.tensors import Part

__all__ = [
    "NOT_KNOWN", "Anomaly", "Classification", "Detection", "Instances", "Keypoints", "Multilabel", "Regression", "Segmentation",
    "Task", "Tensors", "names_of",
]  # fmt: skip

NOT_KNOWN = 255  # of a label: whether a sample has it is not known
MAX_MASKS = 255  # labels of pixels: a byte says them, and 255 is no label


class _Task(Part, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of every task. A field that a reader does not know would change the answer: it is refused.

    `output`: name of the output that holds the scores; "": the first one.
    """

    output: str = ""


class Classification(_Task, frozen=True, kw_only=True, tag="classification"):
    """One score per label. `scores`: logits, whose softmax are probabilities, or probabilities themselves."""

    labels: list[str]
    scores: Literal["logits", "probabilities"] = "logits"


class Multilabel(_Task, frozen=True, kw_only=True, tag="multilabel"):
    """One score per label, each by itself: a sample has every label whose probability is its threshold or more.

    `thresholds`: 0 to 1, one for each label. `scores`: logits, whose sigmoids are probabilities, or probabilities themselves.
    """

    labels: list[str]
    thresholds: list[Fraction01]
    scores: Literal["logits", "probabilities"] = "logits"

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.thresholds):
            raise ValueError("each label needs one threshold")


class Regression(_Task, frozen=True, kw_only=True, tag="regression"):
    """Scores are standardised: value = score × std + mean, one per quantity, in its unit."""

    quantities: list[str]
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        if not len(self.quantities) == len(self.mean) == len(self.std):
            raise ValueError("each quantity needs one mean and one std")


class Anomaly(_Task, frozen=True, kw_only=True, tag="anomaly"):
    """The model reconstructs its normalized input, channels first; a mean squared error above `threshold` is `labels[1]`.

    `mean`, `std`: the normalization, per channel or one for all.
    """

    labels: list[str]
    threshold: float
    mean: list[float]
    std: list[float]

    def __post_init__(self) -> None:
        if len(self.labels) != 2 or len(self.mean) != len(self.std) or 0 in self.std:
            raise ValueError("an anomaly task has two labels, and a std above 0 for each mean")


class Tensors(_Task, frozen=True, kw_only=True, tag="tensors"):
    """No meaning is declared: the answer is the named outputs."""


class Detection(_Task, frozen=True, kw_only=True, tag="detection"):
    """Boxes with labels. `decode`: how the outputs say them; `output` is not used, because a layout names its outputs.

    Boxes with a score below `score_threshold` are left out; of those of one label that overlap by more than `iou_threshold`
    (intersection over union) the best one stays; at most `max_boxes` are answered, best first.
    """

    labels: list[str]
    decode: Layout
    score_threshold: Fraction01 = 0.25
    iou_threshold: Fraction01 = 0.5
    max_boxes: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class Keypoints(Detection, frozen=True, kw_only=True, tag="keypoints"):
    """Boxes with points. Beside a layout of distances, the output `points_output` has (cells, 3 × points) values.

    For each point: how far it is from the middle of its cell to the right and downward, in strides, and the logit of whether it is
    there. Layouts of rows have their points in the rows, and say how many; `points_output` is not used then.
    """

    points: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_POINTS)]
    points_output: str = "points"

    def __post_init__(self) -> None:
        if not has_points(self.decode, len(self.points)) or len(set(self.points)) != len(self.points) or "" in self.points:
            raise ValueError(
                "points have different names, and the layout has as many: distances, or rows or priors that say how many"
            )


class Instances(Detection, frozen=True, kw_only=True, tag="instances"):
    """Boxes with masks. Rows end in a mask's coefficients, by which the output `prototypes` is weighted.

    `prototypes`: (coefficients, height, width) over the whole sample; `prototype_channels`: "last": (height, width, coefficients).
    Without coefficients each row has a map of its own there, (rows, height, width) (RTMDet-Ins and Mask R-CNN by mmdeploy and
    torchvision). `mask_threshold`: the value from which on a pixel belongs to the thing: 0 of logits, 0.5 of probabilities.
    """

    decode: Rows | Final
    prototypes: str
    prototype_channels: Literal["first", "last"] = "first"
    mask_threshold: float = 0.0

    def __post_init__(self) -> None:
        if self.decode.points or self.decode.rows in ("", self.prototypes):
            raise ValueError("masks of things need a layout of rows that names its output, and without points")
        if not math.isfinite(self.mask_threshold):
            raise ValueError("mask_threshold is a number: 0 of logits, 0.5 of probabilities")


class Segmentation(_Task, frozen=True, kw_only=True, tag="segmentation"):
    """A label for each pixel. Scores are (labels, height, width): a grid over the prepared sample, coarser or as fine.

    `background`: the label for which no mask is answered; "": each label has masks. `channels`: "last": (height, width, labels).
    `scores`: logits, or probabilities, or one map of the labels' numbers, which say nothing of how sure they are. `single`: one
    map, of the second label; the first is the background, where that is not.
    """

    labels: list[str]
    height: Annotated[int, msgspec.Meta(ge=1)]
    width: Annotated[int, msgspec.Meta(ge=1)]
    background: str = ""
    channels: Literal["first", "last"] = "first"
    scores: Literal["logits", "probabilities", "numbers"] = "logits"
    single: bool = False

    def __post_init__(self) -> None:
        if not 2 <= len(self.labels) <= MAX_MASKS or (self.background and self.background not in self.labels):
            raise ValueError(f"a segmentation has 2 to {MAX_MASKS} labels, and its background is one of them")
        if self.single and (self.scores == "numbers" or len(self.labels) != 2 or self.background != self.labels[0]):
            raise ValueError("a single map is of the second of two labels, and the first is the background")

    @property
    def values(self) -> int:
        """Of one sample's scores."""
        return self.maps * self.height * self.width

    @property
    def maps(self) -> int:
        """Of one sample's scores."""
        return 1 if self.single or self.scores == "numbers" else len(self.labels)


Task = Classification | Multilabel | Regression | Anomaly | Tensors | Detection | Keypoints | Instances | Segmentation


def names_of(task: Task) -> list[str]:
    """Labels or quantities, by the kind of task; none where its outputs have no declared meaning."""
    if isinstance(task, Tensors):
        return []
    return task.quantities if isinstance(task, Regression) else task.labels
