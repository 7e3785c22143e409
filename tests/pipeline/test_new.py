"""What `edgeloop new` understands of people's data, says, and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.cli.project import new
from edgeloop_pipeline.recipe import recipe
from edgeloop_pipeline.recipe.project import Project
from edgeloop_pipeline.recipe.wizard.look import look
from edgeloop_pipeline.recipe.wizard.write import write

RNG = np.random.default_rng(0)


def said(path: Path, task: str = "") -> dict[str, str]:
    return dict(look(path, task).says)


def prepared(path: Path, folder: Path, task: str = "") -> Any:
    """The samples of the project that is written, unedited."""
    write(folder, look(path, task))
    return Project(recipe.load(folder / "recipe.yaml")).splits


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]))
    return path


def rows(labels: str, points: int = 20, before: Callable[[int], str] = lambda i: "") -> list[str]:
    """Runs of `points` rows of two channels, one for each letter."""
    values = RNG.normal(size=(len(labels) * points, 2))
    return [f"{before(i)}{a:.3f},{b:.3f},{labels[i // points]}" for i, (a, b) in enumerate(values)]


def picture(path: Path, mode: str = "RGB", size: int = 24) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size)).save(path)


def test_what_is_understood_is_printed_before_anything_is_written(tmp_path: Path) -> None:
    lines = rows("abcabcabcabc", before=lambda i: f"{i},s{i // 60},")
    table(tmp_path / "t.csv", "Unnamed: 0,subject,ax,ay,label", [*lines[:7], lines[7].replace("0.", "NA", 1), *lines[8:]])
    table(tmp_path / "t.csv", "Unnamed: 0,subject,ax,ay,label", lines)
    done = CliRunner().invoke(new, [str(tmp_path / "mine"), "--data", str(tmp_path / "t.csv")])
    assert done.exit_code == 0, done.output
    for expected in (
        "classes in column 'label'", "a: 4, b: 4, c: 4 recordings", "train        6 (a: 2, b: 2, c: 2); subject s0, s1",
        "subject, 4 of them", "ax -", "Unnamed: 0   no channel: a time or a row's number", "window       20 points, every 10",
    ):  # fmt: skip
        assert expected in done.output
    broken = table(tmp_path / "u.csv", "ax,ay,label", ["err,1,a", *rows("abcabc")])
    done = CliRunner().invoke(new, [str(tmp_path / "other"), "--data", str(broken)])
    assert isinstance(done.exception, DataError) and not (tmp_path / "other").exists()


def test_who_is_where_stands_in_data_py(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", "subject,ax,ay,label", rows("abcabcabcabcabc", before=lambda i: f"s{i // 60},"))
    splits = prepared(path, tmp_path / "mine")
    text = (tmp_path / "mine" / "data.py").read_text()
    assert "validation=('s" in text and "test=('s" in text and str(tmp_path) not in text
    named = next(line for line in text.splitlines() if "test=(" in line).split("test=('")[1].split("'")[0]
    assert set(splits.test.groups) == {named}


COLUMNS = {
    "a row's number": ("ax,ay,id,label", lambda i: f"{i}", "numbers rows"),
    "seconds": ("ax,ay,s,label", lambda i: f"{i / 50:.2f}", "rises evenly"),
    "milliseconds that shake": ("ax,ay,millis,label", lambda i: f"{20 * i + i % 3}", "rises evenly"),
    "a time stamp": ("ax,ay,timestamp,label", lambda i: f"2024-03-01 12:00:{i % 60}", "a time"),
    "a time with its unit": ("ax,ay,time (ms),label", lambda i: f"{i * i}", "a time"),
    "text": ("ax,ay,place,label", lambda i: "xyz"[i % 3], "text"),
    "nothing": ("ax,ay,extra,label", lambda i: "NA", "empty"),
    "mostly nothing": ("ax,ay,extra,label", lambda i: "1.5" if i % 3 == 0 else "", "67% of its values are missing"),
    "one person": ("ax,ay,subject,label", lambda i: "Ann", "Ann in every row"),
    "the label once more": ("ax,ay,code,label", lambda i: str(i // 20 % 3), "one number for each label"),
    "another label": ("ax,ay,activity,label", lambda i: str(i // 20 % 2), "another label"),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_that_are_no_channels(tmp_path: Path, kind: str) -> None:
    header, cell, why = COLUMNS[kind]
    lines = [",".join([*line.split(",")[:2], cell(i), line.split(",")[2]]) for i, line in enumerate(rows("abcabcabcabc"))]
    plan = look(table(tmp_path / "t.csv", header, lines))
    assert plan.arguments["channels"] == ("ax", "ay") and not plan.arguments["group"]
    assert why in dict(plan.says)[header.split(",")[2]]


def test_one_missing_value_is_a_missing_value(tmp_path: Path) -> None:
    lines = rows("abcabcabcabc")
    lines[7] = "NA," + lines[7].split(",", 1)[1]
    path = table(tmp_path / "t.csv", "ax,ay,label", lines)
    assert "up to 1 points in a row are filled" in said(path)["missing"]
    splits = prepared(path, tmp_path / "mine")
    assert splits.shape == (20, 2) and any("1 values repaired by fill_missing" in note for note in splits.notes)


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    plan = look(table(tmp_path / "t.csv", "acc,acc,label", rows("abcabcabcabc")))
    assert plan.arguments["channels"] == ("acc", "acc.2") and "another column called acc" in dict(plan.says)["acc.2"]


def test_air_pressure_keeps_its_resolution(tmp_path: Path) -> None:
    values = 1013.0 + RNG.normal(0, 0.01, 240)
    path = table(tmp_path / "t.csv", "hPa,label", [f"{v:.5f},{'ab'[i // 30 % 2]}" for i, v in enumerate(values)])
    assert "counted from 1013" in said(path)["channels"]
    assert np.ptp(prepared(path, tmp_path / "mine").train.values.astype(int)) > 2000


def test_few_subjects_and_few_recordings_are_divided_and_said(tmp_path: Path) -> None:
    two = table(tmp_path / "two.csv", "subject,ax,ay,label", rows("abcabcabcabc", before=lambda i: "pq"[i // 120] + ","))
    assert said(two)["split by"].startswith("recording") and "class 'a' has 2 subjects to divide" in said(two)["split by"]
    one = table(tmp_path / "one.csv", "ax,ay,label", rows("ab", 200))
    assert said(one)["split by"].startswith("stretches of 28 rows, which are neighbours")
    assert len(prepared(one, tmp_path / "mine").test)


def test_a_forecast_is_not_averaged(tmp_path: Path) -> None:
    load = np.sin(np.arange(1000) / 9)
    path = table(tmp_path / "t.csv", "load,target", [f"{a:.4f},{b:.4f}" for a, b in zip(load[:-5], load[5:], strict=True)])
    plan = look(path)
    assert plan.task == "regression" and plan.arguments["at"] == "last"
    assert "last row, because it changes within a sample" in dict(plan.says)["understood"]


UNEVEN = {
    "60 to 100": range(60, 101, 4),
    "7 to 29": range(7, 30, 2),
    "1 to 5": range(1, 6),
    "20 to 2000": (20, 50, 800, 2000, 900, 1000),
}


@pytest.mark.parametrize("kind", UNEVEN)
def test_series_of_any_length_are_taken(tmp_path: Path, kind: str) -> None:
    for label in ("slow", "fast"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i, points in enumerate(UNEVEN[kind]):
            np.save(tmp_path / "data" / label / f"{i}.npy", RNG.normal(size=(points, 2)))
    splits = prepared(tmp_path / "data", tmp_path / "mine")
    recordings = sum(len(np.unique(part.recording)) for part in (splits.train, splits.validation, splits.test))
    assert recordings == 2 * len(list(UNEVEN[kind]))


def test_every_file_is_looked_at_and_every_problem_listed(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(60):
            picture(tmp_path / label / f"{i}.png")
    (tmp_path / "a" / "57.png").write_bytes(b"\x89PNG no")
    (tmp_path / "b" / "58.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 problems:\n  a/57\.png: .*\n  b/58\.png: the file is empty"):
        look(tmp_path)


def test_grey_pictures_among_colour_are_named_and_read(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i, ending in enumerate(("png", "webp", "tif", "jpg", "bmp")):
            picture(tmp_path / "data" / label / f"{i}.{ending}", "L" if (label, i) == ("b", 3) else "RGB")
    assert "1 grey and 9 in colour (b/3.jpg), all become colour" in said(tmp_path / "data")["pictures"]
    assert prepared(tmp_path / "data", tmp_path / "mine").shape == (28, 28, 3)


@pytest.mark.parametrize("beside", [False, True])
def test_masks_are_told_from_classes(tmp_path: Path, beside: bool) -> None:
    for i in range(6):
        picture(tmp_path / "images" / f"{i}.png")
        picture(tmp_path / "cats" / f"{i}.png")
        picture(tmp_path / (f"images/{i}_mask.png" if beside else f"masks/{i}.png"), "L")
    with pytest.raises(DataError, match="looks like pictures with masks"):
        look(tmp_path)


REFUSED = {
    "rows that are examples": (
        ",".join([*(f"f{i}" for i in range(100)), "label"]),
        [",".join(["1.5"] * 100 + ["ab"[i % 2]]) for i in range(40)],
        "a row seems to be a whole example",
    ),
    "shuffled rows": (
        "a,b,label",
        [f"{RNG.normal():.2f},1.5,{'abc'[int(RNG.integers(3))]}" for _ in range(90)],
        "changes its value every",
    ),
    "no header": ("1,2,3", ["1,2,3"] * 9, "no header line"),
    "one class": ("ax,ay,label", rows("aaa"), "there must be two classes"),
    "too few of a class": ("ax,label", [*(f"{RNG.normal():.2f},a" for _ in range(90)), "1.5,b"], "class 'b' has 1 stretch"),
    "two bad words": (
        "ax,ay,label",
        ["x,1,a", "1,y,b", *rows("abcabc")],
        "2 problems:\n.*row 2, column 'ax': 'x'.*\n.*row 3, column 'ay': 'y'",
    ),
    "axes": ("x,y,z", ["1.1,2.2,3.3"] * 20, "no column is called label"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tables_that_cannot_be_understood(tmp_path: Path, kind: str) -> None:
    header, lines, why = REFUSED[kind]
    with pytest.raises(DataError, match=why):
        look(table(tmp_path / "t.csv", header, lines))


@pytest.mark.parametrize("name", ["2024", "on", "null", "1e3", "data: set #1", "données", "'", '"', "a...", "a" * 99])
def test_whatever_a_project_and_its_classes_are_called(tmp_path: Path, name: str) -> None:
    for label in (f"{name}: #1", "no", "{x}"):
        for i in range(4):
            picture(tmp_path / "da'ta" / label / f"{i}.png")
    splits = prepared(tmp_path / "da'ta", tmp_path / name)
    assert splits.labels == tuple(sorted((f"{name}: #1", "no", "{x}")))
    assert recipe.load(tmp_path / name / "recipe.yaml").head.model_card.startswith("Tells apart ")


def test_faint_pictures_are_not_varied_in_brightness(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(4):
            Image.fromarray(RNG.integers(2000, 5600, (24, 24)).astype(np.uint16)).save(tmp_path / label / f"{i}.png")
    plan = look(tmp_path)
    assert not plan.augment and dict(plan.says)["contrast"].startswith("all values are between 7 and 21 of 255")
