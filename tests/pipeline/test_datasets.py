"""Class folders and tables as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets import ClassFolders, NormalFolders, Table, Values
from edgeloop_pipeline.data.types import NAMES, Splits


def picture(path: Path, mode: str = "RGB") -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), 90 if mode == "L" else (90, 10, 20)).save(path)


def pictures(root: Path, *classes: str, count: int = 6) -> None:
    for label in classes:
        for i in range(count):
            picture(root / label / f"{i}.png")


def sizes(splits: Splits) -> dict[str, int]:
    return {name: len(getattr(splits, name).labels) for name in NAMES}


def test_classes_called_as_splits_are_classes(tmp_path: Path) -> None:
    pictures(tmp_path, "train", "car", "bus")
    assert ClassFolders(tmp_path).load().labels == ("bus", "car", "train")


def test_classes_called_test_and_train_alone_are_classes(tmp_path: Path) -> None:
    pictures(tmp_path, "train", "test")
    assert ClassFolders(tmp_path).load().labels == ("test", "train")


@pytest.mark.parametrize("given", ["train,test", "train,val", "train", "training,valid,testing", "train,val,test"])
def test_what_split_folders_do_not_say_is_taken_from_training(tmp_path: Path, given: str) -> None:
    for name in given.split(","):
        pictures(tmp_path / name, "cat", "dog", count=20)
    splits = ClassFolders(tmp_path).load()
    assert splits.labels == ("cat", "dog") and all(sizes(splits).values())
    count = {"train,test": (34, 6, 40), "train,val": (34, 40, 6), "train": (28, 6, 6)}.get(given, (40, 40, 40))
    assert tuple(sizes(splits).values()) == count


def test_splits_within_each_class_are_kept(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        pictures(tmp_path / label, "train", "test", count=5)
    splits = ClassFolders(tmp_path).load()
    assert splits.labels == ("cat", "dog") and len(splits.test.labels) == 10


def test_copies_and_remains_of_other_programs_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in ("train", "test"):
        pictures(tmp_path / "zip" / name, "cat", "dog")
        pictures(tmp_path / "zip" / name / "cat", ".ipynb_checkpoints", count=3)
        (tmp_path / "zip" / name / "cat" / "._1.png").write_bytes(b"x")
        (tmp_path / "zip" / name / "cat" / "notes.gif").write_bytes(b"x")
    pictures(tmp_path, "__MACOSX", count=2)
    (tmp_path / "zip" / "extra").mkdir()
    picture(tmp_path / "zip" / "extra" / "a" / "1.png")
    picture(tmp_path / "zip" / "train" / "loose.png")
    found = ClassFolders(tmp_path).scan()
    assert found.root == tmp_path / "zip" and len(found.files) == 24
    assert found.left_out == {
        "in .ipynb_checkpoints/": 6, "._ files of macOS": 2, ".gif files, which are not read": 2,
        "in extra/, beside the split folders": 1, "in train/, in no class folder": 1,
    }  # fmt: skip


def test_a_class_that_only_the_test_set_has_is_named(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        pictures(tmp_path / name, "cat", "dog")
    pictures(tmp_path / "test", "fox", count=2)
    with pytest.raises(DataError, match="class 'fox' has 2 for test, and none for train"):
        ClassFolders(tmp_path).load()


def test_one_kind_of_file_counts(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "sizes.csv").write_text("1,2\n")
    found = ClassFolders(tmp_path).scan()
    assert len(found.files) == 12 and found.left_out == {"series, beside pictures": 1}
    assert len(ClassFolders(tmp_path, kind="series").scan().files) == 1


def test_normal_files_without_val_or_test(tmp_path: Path) -> None:
    pictures(tmp_path / "train", "good", count=10)
    pictures(tmp_path / "test", "good", "scratch", "hole", count=4)
    pictures(tmp_path / "ground_truth", "scratch", count=4)
    splits = NormalFolders(tmp_path, normal="good").load()
    assert sizes(splits) == {"train": 10, "validation": 6, "test": 6} and not splits.train.labels.any()
    assert splits.validation.labels.tolist().count(0) == splits.test.labels.tolist().count(0) == 2


def wav(path: Path, rate: int, channels: int = 1) -> None:
    import wave

    path.parent.mkdir(parents=True, exist_ok=True)
    values = (8000 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(values[:, None], channels, 1).tobytes())


def test_sound_of_several_rates_is_resampled_or_refused(tmp_path: Path) -> None:
    for label in ("yes", "no"):
        for i in range(6):
            wav(tmp_path / label / f"{i}.wav", 16000 if i % 2 else 8000)
    splits = ClassFolders(tmp_path, rate_hz=8000).load()
    assert splits.rate_hz == 8000 and {len(splits.train.recordings[i]) for i in range(len(splits.train.labels))} == {4000}
    mixed = ClassFolders(tmp_path).load()
    with pytest.raises(DataError, match=r"sound at \d+ Hz, others are at \d+ Hz; set rate_hz="):
        [mixed.train.recordings[i] for i in range(len(mixed.train.labels))]


def test_labels_are_text(tmp_path: Path) -> None:
    rows = [f"{0.1 * i:.2f},{label}" for label in ("001", "1", "1.0", "none") for _ in range(3) for i in (*range(5), 9)]
    lines = [line for i in range(0, len(rows), 6) for line in (*rows[i : i + 6], "0.5,")]
    (tmp_path / "t.csv").write_text("\n".join(["ax,label", *lines]))
    cut = Table(tmp_path / "t.csv", "label", ("ax",)).cut()
    assert Table(tmp_path / "t.csv", "label", ("ax",)).load().labels == ("001", "1", "1.0", "none")
    assert len(cut.pieces) == 12 and cut.left_out["rows without a label"] == 12


def test_tables_named_as_splits_keep_them(tmp_path: Path) -> None:
    for name, groups in (("train", 6), ("test", 2)):
        rows = [f"{name}{g},{0.1 * i},{label}" for g in range(groups) for label in ("a", "b") for i in range(8)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["subject,ax,label", *rows]))
    splits = Table(tmp_path, "label", ("ax",), "subject").load()
    assert set(splits.test.groups) == {"test0", "test1"} and len(set(splits.validation.groups)) == 1
    assert len(set(splits.train.groups)) == 5


def test_long_gaps_part_recordings_and_are_counted(tmp_path: Path) -> None:
    values = [str(i) if not 10 <= i < 20 and i != 4 else "NA" for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["ax,label", *(f"{v},a" for v in values), *(f"{v},b" for v in values)]))
    cut = Table(tmp_path / "t.csv", "label", ("ax",), max_gap=3).cut()
    assert [len(piece.values) for piece in cut.pieces] == [10, 10, 10, 10]
    assert cut.left_out["rows where a channel misses more than 3 points in a row"] == 20


def test_a_forecast_is_the_last_row_s(tmp_path: Path) -> None:
    rows = [f"{i},{i + 1}" for i in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["ax,next", *rows]))
    mean, last = (Values(tmp_path / "t.csv", "next", ("ax",), length=16, at=at).load() for at in ("mean", "last"))
    for splits, expected in ((mean, lambda x: x.mean() + 1), (last, lambda x: x[-1] + 1)):
        for recording, label in zip(splits.train.recordings, splits.train.labels, strict=True):
            assert label == pytest.approx(expected(recording[:, 0]))


ENCODED = {
    "semicolons and commas": "ax;ay;label\n0,5;1,5;gehen\n0,25;;gehen\n".encode("latin-1"),
    "tabs": b"ax\tay\tlabel\n0.5\t1.5\tgehen\n0.25\tNA\tgehen\n",
    "UTF-16": "ax,ay,label\n0.5,1.5,gehen\n0.25,nan,gehen\n".encode("utf-16"),
    "a byte order mark": "ax,ay,label\n0.5,1.5,gehen\n0.25,?,gehen\n".encode("utf-8-sig"),
    "Latin-1": "ax,ay,label,größe\n0.5,1.5,gehen,1\n0.25,,gehen,1\n".encode("latin-1"),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_tables_of_every_spreadsheet(tmp_path: Path, kind: str) -> None:
    (tmp_path / "t.csv").write_bytes(ENCODED[kind])
    (piece,) = Table(tmp_path / "t.csv", "label", ("ax", "ay")).cut().pieces
    assert piece.label == "gehen"
    np.testing.assert_array_equal(piece.values, [[0.5, 1.5], [0.25, np.nan]])


def test_a_word_among_numbers_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("ax,label\n0.5,a\nerr,a\n")
    with pytest.raises(DataError, match=r"t\.csv: row 3, column 'ax': 'err' is not a number"):
        Table(tmp_path / "t.csv", "label", ("ax",)).load()
