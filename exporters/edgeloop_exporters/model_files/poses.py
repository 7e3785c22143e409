"""Whether a model's outputs are poses without boxes, as widely used models write them, and what their points are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgeloop_contract.boxes import PointAxes, PointMaps, PointRows, Pose
from edgeloop_exporters.model_files.description import ModelFile

__all__ = ["USUAL_NAMES", "USUAL_SUBJECTS", "KnownPose", "pose_of"]

FEW = 20  # people that one answer has
STRIDES = (2, 4, 8)  # of maps
UNNAMED = (17, 133)  # points that tell maps from labels of pixels, of which there may be 21
MAX_SPLIT = 4  # places of a pixel
BOXED = 17 * 3 + 5  # values of one of several people: points, two corners, score
LANDMARKS = {478: 3, 468: 3, 39: 5, 33: 5, 21: 3}  # points → values of each: x, y, depth; and of bodies visibility and presence
VISIBLE = 3  # the place of a body's visibility in those
SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
PERSON = ("nose", *(f"{side}_{part}" for part in SIDED for side in ("left", "right")))  # COCO's, in its order
FINGERS = ("index_finger", "middle_finger", "ring_finger", "pinky")
HAND = (
    "wrist", *(f"thumb_{part}" for part in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{part}" for finger in FINGERS for part in ("mcp", "pip", "dip", "tip")),
)  # fmt: skip
EYES = ("eye_inner", "eye", "eye_outer")
BELOW = ("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel", "foot_index")
BODY = (
    "nose", *(f"{side}_{part}" for side in ("left", "right") for part in EYES),
    "left_ear", "right_ear", "mouth_left", "mouth_right",
    *(f"{side}_{part}" for part in BELOW for side in ("left", "right")),
)  # fmt: skip
USUAL_NAMES = {17: PERSON, 21: HAND, 33: BODY, 39: (*BODY, *(f"auxiliary {number}" for number in range(1, 7)))}
USUAL_SUBJECTS = {17: "person", 26: "person", 33: "person", 39: "person", 133: "person", 21: "hand", 468: "face", 478: "face"}


@dataclass(frozen=True)
class KnownPose:
    """`sure`: names or shapes that nothing else has; `why`: in words."""

    layout: Pose
    sure: bool
    why: str


def pose_of(model: ModelFile, shapes: Mapping[str, tuple[int, ...]], height: int, width: int, said: bool) -> KnownPose | None:
    """`shapes`: of one sample's outputs that count. `said`: the file's metadata call it a pose. None where none is known here."""
    if found := _axes(shapes, height, width) or _landmarks(model, shapes):
        return found
    if len(shapes) != 1:
        return _with_offsets(model, shapes)
    ((output, given),) = shapes.items()
    name, shape = output if len(model.outputs) > 1 else "", tuple(size for size in given if size != 1)
    if shape[-1:] == (BOXED,) and math.prod(shape) <= BOXED * FEW:
        layout = PointRows(rows=name, points=17, values=3, score_at=2, y_first=True, normalised=True, boxed=True)
        return KnownPose(layout, True, f"{output} {list(given)} holds people: 17 points as y, x from 0 to 1, and score; box; score")
    if shape == (17, 3):
        layout = PointRows(rows=name, points=17, values=3, score_at=2, y_first=True, normalised=True)
        return KnownPose(layout, True, f"{output} {list(given)} holds one person's 17 points: y, x from 0 to 1, and score")
    return _maps(model, output, name, given, height, width, said)


def _axes(shapes: Mapping[str, tuple[int, ...]], height: int, width: int) -> KnownPose | None:
    """Scores along x and along y, where names or sizes say so."""
    if len(shapes) != 2:
        return None
    (first, a), (second, b) = ((name, tuple(shape[-2:])) for name, shape in shapes.items())
    x, y = (second, first) if first.lower().endswith("y") and second.lower().endswith("x") else (first, second)
    along, across = (b, a) if x == second else (a, b)
    if len(along) != 2 or len(across) != 2 or along[0] != across[0] or along[0] < 2:
        return None
    split = along[1] / width
    named = x.lower().endswith("x") and y.lower().endswith("y")
    if not 1 <= split <= MAX_SPLIT or across[1] != height * split or not (named or along[0] in USUAL_SUBJECTS):
        return None
    sure = "simcc" in x.lower() and "simcc" in y.lower()
    what = f"{x} {list(shapes[x])} and {y} {list(shapes[y])} hold scores along the axes, {split:g} a pixel, of {along[0]} points"
    return KnownPose(PointAxes(x=x, y=y, points=along[0], split=split), sure, what)


def _landmarks(model: ModelFile, shapes: Mapping[str, tuple[int, ...]]) -> KnownPose | None:
    """One row of so many values as known landmark models have, in pixels, and then a single value: whether there is something."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    rows = {count * values: count for count, values in LANDMARKS.items()}
    name = next((name for name, size in sizes.items() if size in rows and max(shapes[name]) == size), None)
    if name is None or len(sizes) < 2:
        return None
    behind = list(sizes)[list(sizes).index(name) + 1 :]
    presence = next((other for other in behind if sizes[other] == 1), "")
    if not presence:
        return None
    count = rows[sizes[name]]
    values = LANDMARKS[count]
    ends = next((tensor.activation for tensor in model.outputs if tensor.name == presence), None)
    layout = PointRows(
        rows=name, points=count, values=values, score_at=VISIBLE if values > VISIBLE else 0, activation="sigmoid",
        presence=presence, presence_activation="none" if ends == "sigmoid" else "sigmoid",
    )  # fmt: skip
    what = f"{name} {list(shapes[name])} holds {count} points of {values} values in pixels, {presence} whether they are there"
    return KnownPose(layout, False, what)


def _with_offsets(model: ModelFile, shapes: Mapping[str, tuple[int, ...]]) -> KnownPose | None:
    """Maps with channels last, and twice as many of offsets in pixels (PoseNet); other outputs are of pairs of points."""
    plain = {name: shape[1:] if len(shape) == 4 and shape[0] == 1 else shape for name, shape in shapes.items()}
    grids = [(name, shape) for name, shape in plain.items() if len(shape) == 3]
    for name, shape in grids:
        moves = next((other for other, given in grids if given == (*shape[:2], 2 * shape[2])), None)
        if moves is None or shape[2] not in USUAL_SUBJECTS or min(shape[:2]) < 2:
            continue
        ends = next((tensor.activation for tensor in model.outputs if tensor.name == name), None)
        layout = PointMaps(
            maps=name, points=shape[2], channels="last", activation="none" if ends == "sigmoid" else "sigmoid", to_edges=True,
            offsets=moves,
        )  # fmt: skip
        what = f"{name} {list(shapes[name])} holds a map of scores for each of {shape[2]} points, {moves} their offsets"
        return KnownPose(layout, "heatmap" in name.lower() and "offset" in moves.lower(), what)
    return None


def _maps(
    model: ModelFile, output: str, name: str, given: tuple[int, ...], height: int, width: int, said: bool
) -> KnownPose | None:  # fmt: skip
    shape = given[1:] if len(given) == 4 and given[0] == 1 else given
    if len(shape) != 3 or len(model.metadata.labels) > 1:
        return None
    named = said or any(word in output.lower() for word in ("heatmap", "heat_map", "keypoint"))
    for stride in STRIDES:
        if height % stride or width % stride:
            continue
        cells = (height // stride, width // stride)
        for first in (True, False):
            count, grid = (shape[0], shape[1:]) if first else (shape[2], shape[:2])
            if grid == cells and (count in UNNAMED or (named and count > 1)):
                layout = PointMaps(maps=name, points=count, channels="first" if first else "last")
                what = f"{output} {list(given)} holds a map of scores for each of {count} points, a cell for {stride} pixels"
                return KnownPose(layout, named, what)
    return None
