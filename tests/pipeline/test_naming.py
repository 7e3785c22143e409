"""Names and labels of any kind that a data.py gives."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import pytest

from edgeloop_contract.cleaning import FillMissing
from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import Counts, Window
from edgeloop_pipeline.data.prepare import checked, prepare_splits
from edgeloop_pipeline.data.types import Split, Splits

RECORDINGS = [np.full((8, 1), i, np.float32) for i in range(4)]


class Gait(enum.Enum):
    walk = 1
    run = 2


def some(names: Any, labels: Any) -> Splits:
    part = Split(RECORDINGS, labels)
    return Splits(names, part, part, part)


KINDS = {
    "numpy strings": (tuple(np.unique(["walk", "run"])), [0, 1, 1, 0], ("run", "walk"), [0, 1, 1, 0]),
    "an array of strings": (np.array(["walk", "run"]), np.array([0, 1, 1, 0]), ("walk", "run"), [0, 1, 1, 0]),
    "a list": (["walk", "run"], [0, 1, 1, 0], ("walk", "run"), [0, 1, 1, 0]),
    "ints": ((0, 1), [0, 1, 1, 0], ("0", "1"), [0, 1, 1, 0]),
    "numpy ints": (np.unique([0, 1]), np.array([0, 1, 1, 0], np.uint8), ("0", "1"), [0, 1, 1, 0]),
    "other ints": ((10, 20), [10, 20, 20, 10], ("10", "20"), [0, 1, 1, 0]),
    "floats": ((0.5, 1.0), np.array([0.0, 1.0, 1.0, 0.0]), ("0.5", "1.0"), [0, 1, 1, 0]),
    "booleans": ((False, True), np.array([False, True, True, False]), ("false", "true"), [0, 1, 1, 0]),
    "booleans the other way": ((True, False), np.array([False, True, True, False]), ("true", "false"), [1, 0, 0, 1]),
    "bytes": ((b"walk", b"run"), [0, 1, 1, 0], ("walk", "run"), [0, 1, 1, 0]),
    "an enumeration": (Gait, [0, 1, 1, 0], ("walk", "run"), [0, 1, 1, 0]),
    "its members": (tuple(Gait), [Gait.run, Gait.run, Gait.walk, Gait.walk], ("walk", "run"), [1, 1, 0, 0]),
    "a dict by number": ({3: "walk", 7: "run"}, [3, 7, 7, 3], ("walk", "run"), [0, 1, 1, 0]),
    "a dict by name": ({"walk": 1, "run": 0}, [1, 0, 0, 1], ("run", "walk"), [1, 0, 0, 1]),
    "a dict of numpy": ({np.int64(0): np.str_("walk"), np.int64(1): np.str_("run")}, [0, 1, 1, 0], ("walk", "run"), [0, 1, 1, 0]),
    "labels by name": (("walk", "run"), ["walk", "run", "run", "walk"], ("walk", "run"), [0, 1, 1, 0]),
    "labels by numpy name": (("walk", "run"), np.array(["walk", "run", "run", "walk"]), ("walk", "run"), [0, 1, 1, 0]),
    "a column of labels": (("walk", "run"), np.array([[0], [1], [1], [0]]), ("walk", "run"), [0, 1, 1, 0]),
    "keys of a dict": ({"walk": "x", "run": "y"}.keys(), [0, 1, 1, 0], ("walk", "run"), [0, 1, 1, 0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_names_become_texts_and_labels_places(kind: str) -> None:
    names, labels, texts, places = KINDS[kind]
    made = prepare_splits(some(names, labels), [])
    assert made.labels == texts and all(type(name) is str for name in made.labels)
    for part in (made.train, made.validation, made.test):
        assert part.labels.tolist() == places and part.labels.dtype == np.int64


REFUSED = {
    "one text": ("walk", [0, 1, 1, 0], "one text"),
    "a set": ({"walk", "run"}, [0, 1, 1, 0], "no order"),
    "none": (None, [0, 1, 1, 0], "NoneType"),
    "empty": ((), [0, 1, 1, 0], "there are none"),
    "one class": (("walk",), [0, 0, 0, 0], "two classes or more"),
    "a missing name": (("walk", None), [0, 1, 1, 0], r"labels\[1\]: 'None' is a NoneType"),
    "not a number": ((0.0, float("nan")), [0, 1, 1, 0], r"labels\[1\]"),
    "an empty name": (("walk", " "), [0, 1, 1, 0], r"labels\[1\]: an empty name"),
    "twice": (("1", 1), [0, 1, 1, 0], "'1' is there twice"),
    "ambiguous numbers": ((1, 0), [0, 1, 1, 0], "or an index"),
    "a dict of texts": ({"a": "b", "c": "d"}, [0, 1, 1, 0], "write {0: 'walk'"),
    "a number the dict lacks": ({3: "walk", 7: "run"}, [3, 7, 0, 3], r"one of \[3, 7\]; there is 0"),
    "out of range": (("walk", "run"), [0, 1, 2, 0], "integers from 0 to 1; there is 2"),
    "halves": (("walk", "run"), [0, 1, 0.5, 0], "not whole numbers"),
    "one of many": (("walk", "run"), np.eye(2)[[0, 1, 1, 0]], r"shape \(4, 2\)"),
    "an unknown name": (("walk", "run"), ["walk", "rum", "run", "walk"], "recording 1 is a 'rum'.*did you mean run"),
    "too few": (("walk", "run"), [0, 1], "4 recordings and 2 labels"),
    "no list": (("walk", "run"), 7, "its labels have no length"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_names_and_labels_that_mean_nothing(kind: str) -> None:
    names, labels, said = REFUSED[kind]
    with pytest.raises(DataError, match=said):
        prepare_splits(some(names, labels), [])


def test_what_load_returns_is_looked_at() -> None:
    with pytest.raises(DataError, match="returned NoneType without labels"):
        checked(None)
    part = Split(RECORDINGS, [0, 1, 1, 0], groups=["a", "b"])
    with pytest.raises(DataError, match="2 groups and 4 labels"):
        checked(Splits(("a", "b"), part, part, part))


def test_a_quantity_that_never_changes_is_named() -> None:
    good, flat = Split(RECORDINGS, [1.0, 2.0, 3.0, 4.0]), Split(RECORDINGS, [2.0] * 4)
    with pytest.raises(DataError, match="validation: load is 2 in every recording"):
        prepare_splits(Splits(("load",), good, flat, good), [], "regression")


def series(*values: float) -> np.ndarray:
    return np.array(values, np.float64)[:, None]


def test_cleaning_serves_training_too() -> None:
    nan = float("nan")
    recordings = [series(1, nan, 3, 4), series(1, 2, 3, 4), series(1, nan, nan, 4), series(4, 3, 2, 1)]
    part = Split(recordings, [0, 1, 1, 0], names=["a", "b", "c", "d"])
    steps = [Window(4, 4), Counts([1.0])]
    made = prepare_splits(Splits(("x", "y"), part, part, part), steps, cleaning=[FillMissing(1)])
    assert made.train.values[:, :, 0].tolist() == [[1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]]
    assert made.train.labels.tolist() == [0, 1, 0] and made.train.recording.tolist() == [0, 1, 3]
    assert made.notes[0] == "train: 1 values repaired by fill_missing"
    assert made.notes[1].startswith("train: 1 of 4 recordings left out, 1 by fill_missing: channel 0 misses 2 points")
    with pytest.raises(DataError, match=r"train recording 0 \(a\), window 0: .*add cleaning"):
        prepare_splits(Splits(("x", "y"), part, part, part), steps)
    none = Split([series(nan, nan, nan, 1)], [0])
    with pytest.raises(DataError, match=r"validation: no samples: 1 recordings are refused \(1 for fill_missing"):
        prepare_splits(Splits(("x", "y"), part, none, part), steps, cleaning=[FillMissing(1)])
