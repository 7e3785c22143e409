"""Tiny models whose answers are boxes, masks, values or several labels, in bundles with a drift reference, so that their devices send samples."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from onnx import TensorProto, helper

from bundles import onnx_file, write
from edgeloop_agent.answers import answer_names
from edgeloop_contract import archive
from edgeloop_contract.annotations import AnnotatedBox, BoxMask
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes.layouts import Distances, Rows
from edgeloop_contract.drift import Drift, channel_names
from edgeloop_contract.manifest import Input, Regression, Task, TensorSpec
from edgeloop_contract.masks import run_lengths
from edgeloop_contract.preprocessing import Resize
from edgeloop_contract.tasks import Detection, Instances, Keypoints, Multilabel, Segmentation

HEIGHT, WIDTH = 48, 64
LABELS = ("cat", "dog", 'with "quotes" & <signs>')
BOXES = {"dog": ((20.0, 12.0, 44.0, 36.0), 0.9), "cat": ((2.0, 4.0, 12.0, 14.0), 0.3)}  # that the detector finds everywhere
POINTED = AnnotatedBox("worm", (8.0, 8.0, 40.0, 40.0), 0.9526, [(16.0, 24.0, 2), (0.0, 0.0, 0)])  # that the pointer finds
INSIDE = np.zeros((HEIGHT, WIDTH), bool)
INSIDE[12:36, 20:32] = True  # the left half of the dog's box
MASKED = AnnotatedBox("dog", BOXES["dog"][0], BOXES["dog"][1], mask=BoxMask((HEIGHT, WIDTH), run_lengths(INSIDE)))
U8, F = TensorProto.UINT8, TensorProto.FLOAT


def detector(path: Path) -> Path:
    """Finds BOXES in every picture."""
    rows = np.zeros((1, 4 + len(LABELS), len(BOXES)), np.float32)
    for i, (label, ((x1, y1, x2, y2), score)) in enumerate(BOXES.items()):
        rows[0, :4, i] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        rows[0, 4 + LABELS.index(label), i] = score
    nodes = [
        helper.make_node("Cast", ["picture"], ["c"], to=F), helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "none"], ["n"]), helper.make_node("Add", ["rows", "n"], ["boxes"]),
    ]  # fmt: skip
    shape = list(rows.shape)
    model = onnx_file(nodes, *_ends("boxes", shape), rows=rows, none=np.zeros(1, np.float32))
    return _bundle(path, model, {"boxes": shape[1:]}, Detection(labels=list(LABELS), decode=Rows(channels="first")))


def pointer(path: Path) -> Path:
    """Finds POINTED's worm in every picture, with its head; its tail is not likely to be there."""
    cells, at = HEIGHT // 16 * (WIDTH // 16), 5  # the middle of cell 5 is at (24, 24)
    values = {"boxes": np.ones((1, cells, 4)), "scores": np.full((1, cells, 1), -9.0), "points": np.zeros((1, cells, 6))}
    values["scores"][0, at] = 3.0
    values["points"][0, at] = -0.5, 0.0, 4.0, 0.75, 0.0, -4.0
    nodes = [
        helper.make_node("Cast", ["picture"], ["c"], to=F), helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "none"], ["n"]), *(helper.make_node("Add", [f"{name}_", "n"], [name]) for name in values),
    ]  # fmt: skip
    given, _ = _ends("boxes", [1])
    made = [(name, F, list(value.shape)) for name, value in values.items()]
    constants = {f"{name}_": value.astype(np.float32) for name, value in values.items()}
    model = onnx_file(nodes, given, made, none=np.zeros(1, np.float32), **constants)
    task = Keypoints(labels=["worm"], decode=Distances(strides=[16]), points=["head", "tail"])
    return _bundle(path, model, {name: list(value.shape[1:]) for name, value in values.items()}, task)


def masker(path: Path) -> Path:
    """Finds MASKED in every picture: its mask is what lies in the left half of the picture."""
    (x1, y1, x2, y2), score = BOXES["dog"]
    values = {"rows": np.zeros((1, 4 + len(LABELS) + 1, 5)), "maps": np.full((1, 1, HEIGHT, WIDTH), -1.0)}
    values["rows"][0, [0, 1, 2, 3, 4 + LABELS.index("dog"), -1], 2] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score, 1
    values["maps"][..., : WIDTH // 2] = 1
    nodes = [
        helper.make_node("Cast", ["picture"], ["c"], to=F), helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "none"], ["n"]), *(helper.make_node("Add", [f"{name}_", "n"], [name]) for name in values),
    ]  # fmt: skip
    given, _ = _ends("rows", [1])
    made = [(name, F, list(value.shape)) for name, value in values.items()]
    constants = {f"{name}_": value.astype(np.float32) for name, value in values.items()}
    model = onnx_file(nodes, given, made, none=np.zeros(1, np.float32), **constants)
    task = Instances(labels=list(LABELS), decode=Rows(rows="rows", channels="first", coefficients=1), prototypes="maps")
    return _bundle(path, model, {name: list(value.shape[1:]) for name, value in values.items()}, task)


def segmenter(path: Path) -> Path:
    """Red is an object, anything else the background."""
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[1, 0] = 1.0
    nodes = [
        helper.make_node("Cast", ["picture"], ["c"], to=F), helper.make_node("Transpose", ["c"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["t", "w", "b"], ["masks"], kernel_shape=[1, 1]),
    ]  # fmt: skip
    shape = [1, 2, HEIGHT, WIDTH]
    model = onnx_file(nodes, *_ends("masks", shape), w=weights, b=np.array([0, -128], np.float32))
    task = Segmentation(labels=["background", "red"], height=HEIGHT, width=WIDTH, background="background")
    return _bundle(path, model, {"masks": shape[1:]}, task)


def regressor(path: Path) -> Path:
    """The mean of the picture, and a tenth of it."""
    nodes = [
        helper.make_node("Cast", ["picture"], ["c"], to=F), helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["r"]), helper.make_node("Mul", ["r", "factors"], ["values"]),
    ]  # fmt: skip
    model = onnx_file(nodes, *_ends("values", [1, 2]), shape=np.array([1, 1]), factors=np.array([[0.1, 0.01]], np.float32))
    task = Regression(quantities=["level", "tenth"], mean=[0.0, 0.0], std=[10.0, 10.0])
    return _bundle(path, model, {"values": [2]}, task)


def labeller(path: Path) -> Path:
    """Any picture that is not black is bright."""
    nodes = [
        helper.make_node("Cast", ["picture"], ["c"], to=F), helper.make_node("ReduceMean", ["c"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["m", "shape"], ["r"]), helper.make_node("Mul", ["r", "factors"], ["labels"]),
    ]  # fmt: skip
    model = onnx_file(nodes, *_ends("labels", [1, 2]), shape=np.array([1, 1]), factors=np.array([[0.1, -0.1]], np.float32))
    return _bundle(path, model, {"labels": [2]}, Multilabel(labels=["bright", "dark"], thresholds=[0.5, 0.5]))


MODELS = {"boxes": detector, "things": masker, "masks": segmenter, "values": regressor, "labels": labeller}


def _ends(name: str, shape: list[int]) -> tuple[list[tuple[str, int, list[int]]], list[tuple[str, int, list[int]]]]:
    return [("picture", U8, [1, HEIGHT, WIDTH, 3])], [(name, F, shape)]


def _bundle(path: Path, model: bytes, outputs: dict[str, list[int]], task: Task) -> Path:
    """`outputs`: one sample's shape by name."""
    sample = TensorSpec(dtype="uint8", shape=[HEIGHT, WIDTH, 3])
    given = TensorSpec(dtype="uint8", shape=[HEIGHT, WIDTH, 3], tensor="picture", batch="one")
    made = [TensorSpec(dtype="float32", shape=shape, name=name, tensor=name, batch="one") for name, shape in outputs.items()]
    entry = Input(name="input", sample=sample, preprocessing=[Resize(height=HEIGHT, width=WIDTH)])
    write(path, model, [entry], [given], made, task=task, name=path.stem)
    with Bundle.open(path) as bundle:
        files, manifest = {name: bundle.read(name) for name in bundle.manifest.files}, bundle.manifest
    archive.write(path, msgspec.structs.replace(manifest, schema=3, drift=_reference(task)), files)
    return path


def _reference(task: Task) -> Drift:
    """That calls nothing drift."""
    names = [*channel_names(3), *answer_names(task)]
    one, none = [1.0] * len(names), [0.0] * len(names)
    return Drift(
        features=names, labels=1, centre=[none], scale=one, projections=[], mean=none * 2, std=one * 2, memories=[64.0],
        spread=[one * 2], rates=[10.0], limits=[[1e12, 1e12]], overall=[none, one],
    )  # fmt: skip
