"""Lists of several labels a recording in every format: read, recognised, and refused in one sentence where they say nothing."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import annotated
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import NOT_KNOWN
from edgeloop_pipeline.data.datasets import LabelledFiles
from edgeloop_pipeline.data.datasets.label_lists.reading import has_label_list
from edgeloop_pipeline.data.several_labels import label_rows, unlearnt_labels
from edgeloop_pipeline.recipe.wizard.look import look
from edgeloop_pipeline.recipe.wizard.write import write
from labelled import FORMATS, NAMES, labelled_pictures, one_column, series, table


def labels_of(data: LabelledFiles) -> dict[str, list[str]]:
    splits = data.load()
    return {
        Path(name).name: [label for label, has in zip(splits.labels, row, strict=True) if has == 1]
        for part in (splits.train, splits.validation, splits.test)
        for name, row in zip(part.names, part.labels, strict=True)
    }


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_the_same_and_edgeloop_new_recognises_it(name: str, tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 24)
    FORMATS[name](tmp_path / "data", found)
    assert labels_of(LabelledFiles(tmp_path / "data")) == found
    plan = look(tmp_path / "data")
    assert plan.task == "multilabel" and plan.distinct == NAMES and "any number of labels" in plan.says[0][1]
    write(tmp_path / "mine", plan)
    scope: dict = {"__file__": str(tmp_path / "mine" / "data.py")}
    exec((tmp_path / "mine" / "data.py").read_text(), scope)
    assert labels_of(scope["data"]()) == found and "task: multilabel" in (tmp_path / "mine" / "recipe.yaml").read_text()
    if name == "columns of 0 and 1":
        assert any("column 'age': no labels" in text for _, text in plan.says)


def test_series_have_a_list_beside_their_files(tmp_path: Path) -> None:
    found = series(tmp_path / "data" / "recordings", 30)
    table(tmp_path / "data" / "tones.csv", ["recording", "tags"], [[n, str(has)] for n, has in found.items()])
    plan = look(tmp_path / "data")
    assert plan.task == "multilabel" and plan.arguments["channels"] == ("x",) and plan.distinct == ("fast", "slow")
    assert {name: sorted(has) for name, has in found.items()} == labels_of(LabelledFiles(tmp_path / "data", channels=("x",)))


def test_boxes_give_labels_where_they_are_asked_for(tmp_path: Path) -> None:
    found = annotated.coco(tmp_path / "data", 20)
    assert look(tmp_path / "data").task == "detection"
    plan = look(tmp_path / "data", "multilabel")
    assert plan.kind == "LabelledFiles" and "labels of boxes as COCO JSON" in plan.says[0][1]
    wanted = {name: sorted({shape.label for shape in shapes}) for name, shapes in found.items()}
    assert labels_of(LabelledFiles(tmp_path / "data")) == wanted


def test_what_is_not_known_is_said_and_the_data_s_own_split_counts(tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 24)
    sides = ["train"] * 14 + ["val"] * 5 + ["test"] * 5
    rows = [
        [n, "" if i == 2 else -1 if i == 3 else int("disc" in has), int("square" in has), side]
        for i, ((n, has), side) in enumerate(zip(found.items(), sides, strict=True))
    ]
    table(tmp_path / "data" / "list.csv", ["file", "disc", "square", "split"], rows)
    splits = LabelledFiles(tmp_path / "data").load()
    assert [len(part.labels) for part in (splits.train, splits.validation, splits.test)] == [14, 5, 5]
    assert splits.train.labels[:, 0].tolist().count(NOT_KNOWN) == 2 and NOT_KNOWN not in splits.train.labels[:, 1]
    assert ("not known", "2 labels of recordings, which are neither learnt nor judged") in look(tmp_path / "data").says


def test_equal_files_stay_together_and_each_label_is_learnt(tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 30)
    for i in range(3):
        copy = tmp_path / "data" / "images" / f"copy{i}.png"
        copy.write_bytes((tmp_path / "data" / "images" / f"p{i:03d}.png").read_bytes())
        found[copy.name] = [*found[f"p{i:03d}.png"], "odd"]
    one_column(tmp_path / "data", found)
    data = LabelledFiles(tmp_path / "data")
    side = {row.path.name: part for row, part in zip(data.listed.rows, data.sides(data.listed), strict=True)}
    assert all(side[f"copy{i}.png"] == side[f"p{i:03d}.png"] for i in range(3)) and set(side.values()) == {
        "train",
        "validation",
        "test",
    }
    assert "odd" in data.load().labels and "train" in {side[f"copy{i}.png"] for i in range(3)}


def test_rare_labels_and_lost_files_are_counted(tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 20)
    listed = {**found, "p001.png": [*found["p001.png"], "unicorn"], "gone.png": ["disc"]}
    del listed["p002.png"]
    one_column(tmp_path / "data", listed)
    lines = " ".join(LabelledFiles(tmp_path / "data").load().notes)
    assert "1 labels with fewer than 3 recordings, left out: unicorn: 1" in lines
    assert "1 recordings that are listed and not there (gone.png)" in lines and "no row names, left out (p002.png)" in lines


def test_a_list_of_single_classes_is_asked_for(tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 20)
    one_column(tmp_path / "data", {name: has[:1] for name, has in found.items()})
    with pytest.raises(DataError, match="csv names pictures with one label each"):
        look(tmp_path / "data")
    assert any("exactly one label" in text for _, text in look(tmp_path / "data", "multilabel").says)


def test_columns_beside_class_folders_are_no_labels(tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 20)
    names = list(found)
    for i, name in enumerate(names):
        folder = tmp_path / "data" / ("cat" if i % 2 else "dog")
        folder.mkdir(exist_ok=True)
        (tmp_path / "data" / "images" / name).rename(folder / name)
    (tmp_path / "data" / "images").rmdir()
    table(tmp_path / "data" / "about.csv", ["file", "blurred", "checked"], [[n, i % 2, i % 3 and 1] for i, n in enumerate(names)])
    assert not has_label_list(tmp_path / "data") and look(tmp_path / "data", "multilabel").distinct == ("blurred", "checked")


Found = dict[str, list[str]]


def nowhere(folder: Path, found: Found) -> None:
    FORMATS["JSON lines"](folder, {f"x{name}": has for name, has in found.items()} | dict(list(found.items())[:3]))


def two_splits(folder: Path, found: Found) -> None:
    rows = [[name, ";".join(has), "train"] for name, has in found.items()]
    table(folder / "l.csv", ["file", "labels", "split"], [*rows, ["p000.png", "disc", "test"]])


def other_split(folder: Path, found: Found) -> None:
    table(folder / "l.csv", ["file", "labels", "split"], [[name, ";".join(has), "holdout"] for name, has in found.items()])


def broken_line(folder: Path, found: Found) -> None:
    FORMATS["JSON lines"](folder, found)
    (folder / "labels.jsonl").write_text((folder / "labels.jsonl").read_text() + '{"file_name": "p000.png", \n')


def numbers(folder: Path, found: Found) -> None:
    FORMATS["JSON lines"](folder, found)
    (folder / "labels.jsonl").write_text((folder / "labels.jsonl").read_text() + '{"file_name": "p000.png", "labels": [3]}\n')


def nobody(folder: Path, found: Found) -> None:
    one_column(folder, {name: [] if i else ["a", "b"] for i, name in enumerate(found)})


def two_lists(folder: Path, found: Found) -> None:
    one_column(folder, found)
    FORMATS["JSON lines"](folder, found)


def no_train(folder: Path, found: Found) -> None:
    table(folder / "l.csv", ["file", "labels", "split"], [[name, ";".join(has), "test"] for name, has in found.items()])


def no_list(folder: Path, found: Found) -> None:
    pass


def no_categories(folder: Path, found: Found) -> None:
    FORMATS["COCO"](folder, found)
    data = json.loads((folder / "labels.json").read_text())
    (folder / "labels.json").write_text(json.dumps({**data, "categories": []}))


def two_lines(folder: Path, found: Found) -> None:
    FORMATS["JSON lines"](folder, {name: [*has, "a\nb"] for name, has in found.items()})


REFUSED: dict[str, tuple[Callable[[Path, Found], None], str]] = {
    "names of no file": (nowhere, "12 of 15 listed recordings are not there"),
    "a file in two splits": (two_splits, "p000.png: is in train and test"),
    "a split of another name": (other_split, "row 2: the split 'holdout'; there is train, validation and test"),
    "a broken line": (broken_line, "labels.jsonl: line 13: is not JSON"),
    "labels that are numbers": (numbers, "line 13: labels must be a list of texts"),
    "no label in three recordings": (nobody, "no label has 3 recordings"),
    "two lists": (two_lists, "has several lists of labels (labels.jsonl, labels.csv)"),
    "a split without training": (no_train, "has recordings for test and none for train"),
    "no list": (no_list, "no list of labels: give a table"),
    "no categories": (no_categories, "has no categories"),
    "a label of two lines": (two_lines, "is more than one line; rename it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_says_nothing_is_one_sentence(name: str, tmp_path: Path) -> None:
    spoil, why = REFUSED[name]
    spoil(tmp_path / "data", labelled_pictures(tmp_path / "data", 12))
    with pytest.raises(DataError) as caught:
        look(tmp_path / "data", "multilabel")
    assert why in str(caught.value), caught.value


def test_labels_of_a_data_py_are_names_or_numbers() -> None:
    names = ("a", "b", "c")
    wanted = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    assert (label_rows([["a", "c"], []], names, "train") == wanted).all()
    assert (label_rows(wanted.astype(bool), names, "train") == wanted).all()
    assert label_rows([[1.0, np.nan, 0], [255, 0, 1]], names, "train").tolist() == [[1, NOT_KNOWN, 0], [NOT_KNOWN, 0, 1]]
    for given, why in (
        ([["d"]], "the label 'd' is not declared"), ([[1, 0]], "labels have shape (1, 2)"), ([[1], [1, 0]], "different lengths"),
        (np.array([[0, 2, 1]]), "the label 2; a label is 1 or 0"), ([0, 1], "labels have shape (2,)"),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            label_rows(given, names, "train")
        assert why in str(caught.value)


def test_a_label_without_examples_is_refused_in_training_and_said_elsewhere() -> None:
    rows = np.array([[1, 0], [0, 1]], np.uint8)
    assert unlearnt_labels({"train": rows, "test": rows[:1]}, ("a", "b")) == ["test: no sample has b, which does not count there"]
    with pytest.raises(DataError, match="train: no sample has b; move some"):
        unlearnt_labels({"train": rows[:1]}, ("a", "b"))
    with pytest.raises(DataError, match="test: none of 2 samples has a label"):
        unlearnt_labels({"train": rows, "test": 0 * rows}, ("a", "b"))


def test_names_as_macos_writes_them_are_found_and_lost_ones_are_counted(tmp_path: Path) -> None:
    found = labelled_pictures(tmp_path / "data", 20)
    composed = {}
    for name, has in found.items():
        other = f"grün-{name}"
        (tmp_path / "data" / "images" / name).rename(tmp_path / "data" / "images" / unicodedata.normalize("NFD", other))
        composed[other] = has
    one_column(tmp_path / "data", composed)
    read = {unicodedata.normalize("NFC", name): has for name, has in labels_of(LabelledFiles(tmp_path / "data")).items()}
    assert read == composed
    for path in sorted((tmp_path / "data" / "images").iterdir())[:14]:
        path.unlink()
    with pytest.raises(DataError, match="14 of 20 listed recordings are not there"):
        look(tmp_path / "data")
