"""Labels of field samples by task: from what people said, through a version of the data, to a recipe's training samples."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation
from edgeloop_contract.boxes import Distances
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import Anomaly, Classification, Detection, Multilabel, Regression, Segmentation, Task
from edgeloop_pipeline.data import field_data
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.recipe.settings import FieldData
from edgeloop_pipeline.retraining.fetch_samples import field_of
from field_samples import MAKERS, stored

BOXES = Detection(labels=["bar", "square"], decode=Distances(strides=[8]))
MASKS = Segmentation(labels=["background", "disc", "square"], height=6, width=8, background="background")
VALUES = Regression(quantities=["pitch_hz", "loudness"], mean=[0, 0], std=[1, 1])
KINDS = Anomaly(labels=["normal", "spot"], threshold=1.0, mean=[0], std=[1])
CHORDS = Multilabel(labels=["low", "middle", "high"], thresholds=[0.5] * 3)
CLASSES = Classification(labels=["a", "b"])
TASKS: dict[str, Task] = {"detection": BOXES, "regression": VALUES, "anomaly": KINDS, "segmentation": MASKS, "multilabel": CHORDS}
SIZE = (4, 6)


def box(label: str, *edges: float) -> AnnotatedBox:
    return AnnotatedBox(label, edges)


def mask(label: str, *counts: int, size: tuple[int, int] = SIZE) -> AnnotatedMask:
    return AnnotatedMask(label, size, list(counts))


def fetched(task: Task, *said: Annotation | str | None) -> tuple[field_data.Field | None, list[str]]:
    """Samples of 4 × 6 pixels with an annotation, a label or none."""
    samples = [
        stored("m", i, np.zeros((*SIZE, 1), np.uint8), one if isinstance(one, str) else None, None if isinstance(one, str) else one)
        for i, one in enumerate(said)
    ]
    lines: list[str] = []
    return field_of(samples, task, lines.append), lines


LEFT_OUT: dict[str, tuple[Task, Annotation | str | None, str]] = {
    "values for boxes": (BOXES, Annotation(values=[1.0]), "1 labelled sample left out: it has no boxes, which this model needs"),
    "a label for boxes": (BOXES, "bar", "1 labelled sample left out: it has no boxes, which this model needs"),
    "boxes for values": (VALUES, Annotation(boxes=[]), "1 labelled sample left out: it has no values, which this model needs"),
    "three values for two": (VALUES, Annotation(values=[1, 2, 3]), "left out: it has 3 values, and the model estimates 2"),
    "boxes for a label": (KINDS, Annotation(boxes=[]), "1 labelled sample left out: it has no label, which this model needs"),
    "a mask of another size": (
        MASKS, Annotation(masks=[mask("disc", 12, size=(3, 4))]), "left out: its mask has 3 × 4 pixels, the sample 4 × 6"
    ),
}  # fmt: skip


def test_boxes_of_what_is_no_picture_are_left_out() -> None:
    lines: list[str] = []
    assert field_of([stored("m", 0, np.zeros(4, np.uint8), said=Annotation(boxes=[]))], BOXES, lines.append) is None
    assert lines == ["1 labelled sample left out: it is no picture, as this model's samples are"]


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_the_task_cannot_use_is_left_out_with_a_line(case: str) -> None:
    task, said, line = LEFT_OUT[case]
    field, lines = fetched(task, said)
    assert field is None and len(lines) == 1 and line in lines[0]


def test_boxes_are_rows_in_pixels_of_the_sample() -> None:
    said = Annotation(boxes=[box("square", -1, 1, 3, 9), box("bar", 0, 0, 2, 2), box("tree", 0, 0, 1, 1), box("bar", 7, 0, 9, 2)])
    field, lines = fetched(BOXES, said, Annotation(boxes=[]))
    assert field is not None and field.labels.tolist() == [
        [[1, 0, 1, 3, 4], [0, 0, 0, 2, 2]], [[-1] * 5, [-1] * 5]
    ]  # fmt: skip
    assert lines == ["1 box left out: outside of the sample", "1 label left out, which the model does not know: tree"]
    assert field.names.tolist() == ["bar", "square"]


def test_masks_are_numbers_of_pixels() -> None:
    """Column by column; what no mask covers is background, and what nobody can learn is unknown."""
    field, lines = fetched(MASKS, Annotation(masks=[mask("square", 4, 4, 16), mask("tree", 8, 4, 12)]), Annotation(masks=[]))
    assert field is not None and field.labels[0].T.tolist() == [[0] * 4, [2] * 4, [255] * 4, [0] * 4, [0] * 4, [0] * 4]
    assert not field.labels[1].any() and lines == ["1 label left out, which the model does not know: tree"]
    bare = msgspec.structs.replace(MASKS, background="", labels=["disc", "square"])
    field, _ = fetched(bare, Annotation(masks=[mask("square", 4, 4, 16)]))
    assert field is not None and np.unique(field.labels).tolist() == [1, 255]


def test_several_labels_are_a_row() -> None:
    field, lines = fetched(CHORDS, Annotation(labels=["high", "low"]), Annotation(labels=[]), Annotation(labels=["tree"]))
    assert field is not None and field.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert lines == ["1 label left out, which the model does not know: tree"]
    assert field_data.samples(field, ("high", "new", "low"), "multilabel").labels[0].tolist() == [1, 255, 1]


def test_labels_that_a_classifier_does_not_know_are_counted() -> None:
    field, lines = fetched(CLASSES, "a", "b", "c", "c")
    assert field is not None and field.labels.tolist() == ["a", "b", "c", "c"] and not len(field.names)
    assert lines == ["2 labels left out, which the model does not know: c"]
    assert field_data.samples(field, ("b", "a")).labels.tolist() == [1, 0]


def test_numbers_stand_for_names_whatever_their_order_in_the_recipe() -> None:
    field, _ = fetched(BOXES, Annotation(boxes=[box("square", 0, 0, 2, 2), box("bar", 0, 0, 3, 3)]))
    assert field is not None
    assert field_data.samples(field, ("square", "bar"), "detection").labels[0, :, 0].tolist() == [0, 1]
    assert field_data.samples(field, ("bar",), "detection").labels[0].tolist() == [[-1] * 5, [0, 0, 0, 3, 3]]
    grid, _ = fetched(MASKS, Annotation(masks=[mask("square", 4, 4, 16)]))
    assert grid is not None
    assert np.unique(field_data.samples(grid, ("background", "square"), "segmentation").labels).tolist() == [0, 1]
    assert np.unique(field_data.samples(grid, ("square",), "segmentation").labels).tolist() == [0, 255]


@pytest.mark.parametrize("task", TASKS)
def test_a_version_is_read_as_it_was_written(task: str, tmp_path: Path) -> None:
    made = field_of(MAKERS[task]("m", 12), TASKS[task], print_nothing)
    assert made is not None
    path = made.save(tmp_path)
    read = field_data.load(path)
    order = np.lexsort((made.keys, made.devices))
    assert (read.labels == made.labels[order]).all() and read.names.tolist() == made.names.tolist() and made.save(tmp_path) == path
    assert len(read.of(read.devices == "pi-0")) == 6 and read.of(np.arange(2)).names.tolist() == made.names.tolist()


def print_nothing(text: str) -> None:
    assert not text


def test_versions_of_older_releases_are_read(tmp_path: Path) -> None:
    """They have no names; and one with the same labels by name has the file's name that it had."""
    made, _ = fetched(CLASSES, "a", "b", "a")
    assert made is not None
    path = made.save(tmp_path)
    arrays = dict(np.load(path))
    assert not len(arrays.pop("names"))
    order = [f.name for f in fields(field_data.Field) if f.name != "names"]
    assert path.stem == hashlib.sha256(b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in order)).hexdigest()[:32]
    np.savez(tmp_path / "old.npz", **{name: arrays[name] for name in order if name not in ("said", "pseudo", "rest")})
    old = field_data.load(tmp_path / "old.npz")
    assert old.labels.tolist() == ["a", "b", "a"] and old.said.all() and not old.names.tolist()


def splits(task: str, labels: tuple[str, ...], values: Any, truth: Any) -> PreparedSplits:
    part = Samples(values, truth, np.arange(len(values)), np.arange(len(values)))
    return PreparedSplits(labels, part, part, part, task)


def test_field_samples_join_training_in_their_task_s_form(tmp_path: Path) -> None:
    picture = np.zeros((8, *SIZE, 1), np.uint8)
    field, _ = fetched(BOXES, *[Annotation(boxes=[box("bar", 0, 0, 2, 2), box("square", 1, 1, 4, 4)])] * 4)
    assert field is not None
    path = replace(field, parts=np.array(["train", "train", "validation", "test"])).save(tmp_path)
    merged = field_data.merged(splits("detection", ("bar", "square"), picture, np.full((8, 1, 5), -1, np.float32)), path, 0.25, 10)
    assert merged.train.labels.shape == (10, 2, 5) and merged.validation.labels.shape == (9, 2, 5) and len(merged.test) == 8
    assert merged.train.labels[-1].tolist() == [[0, 0, 0, 2, 2], [1, 1, 1, 4, 4]] and (merged.train.labels[:8] == -1).all()

    odd, _ = fetched(KINDS, "normal", "spot", "normal", "spot")
    assert odd is not None
    path = replace(odd, parts=np.array(["train", "train", "validation", "test"])).save(tmp_path)
    merged = field_data.merged(splits("anomaly", ("normal", "spot"), picture, np.zeros(8, np.int64)), path, 0.1, 10)
    assert not merged.train.labels.any() and len(merged.train) == 9, "anomalies teach nothing"
    assert merged.validation.labels.tolist() == [0] * 9 + [1]


FOREIGN = {
    "detection": ((8, 1, 5), "the recipe needs boxes"),
    "segmentation": ((8, *SIZE), "the recipe needs masks"),
    "multilabel": ((8, 1), "the recipe needs a row of labels a sample"),
    "regression": ((8, 1), "the recipe needs 1 values a sample"),
}


@pytest.mark.parametrize("task", FOREIGN)
def test_labels_of_another_task_are_refused_in_a_sentence(task: str, tmp_path: Path) -> None:
    field, _ = fetched(CLASSES, "a", "b")
    shape, text = FOREIGN[task]
    assert field is not None
    path = field.save(tmp_path)
    with pytest.raises(DataError, match=f"{path.name}: its labels are .*{text}"):
        field_data.merged(splits(task, ("a",), np.zeros((8, *SIZE, 1), np.uint8), np.zeros(shape)), path, 0.25, 10)


def test_pictures_with_boxes_get_half_of_the_training_samples(tmp_path: Path) -> None:
    """30 pictures that people drew boxes in took a fifth of an epoch, and twice as many a third: the difference was theirs."""
    for task, share in (("detection", 0.5), ("keypoints", 0.5), ("classification", 0.25), ("segmentation", 0.25)):
        field = msgspec.convert(field_data.settings(tmp_path / "a.npz", task), FieldData)
        assert (field.share, field.file) == (share, str(tmp_path / "a.npz"))
