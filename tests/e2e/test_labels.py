"""Samples to other labelling tools and labels back: every format round, and through a real hub."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from commands import command, sentence
from edgeloop_contract.errors import DataError
from edgeloop_contract.sample_messages import LabelAssignment, SampleSummary
from edgeloop_pipeline.fleet import label_formats

NAMES = ["plain", 'with "quotes" & <signs>', "comma, semicolon; ümlaut"]


def item(number: int, label: str | None, image: bool) -> label_formats.Item:
    shape = (8, 6, 3) if image else (20, 2)
    values = np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)
    sample = SampleSummary(
        device=f"pi-{number}", key=f"{number:064x}", taken=1.0, kind="random", random=1, model="m", sha256="0" * 64, recording="a,b",
        window=3, prediction=NAMES[0], confidence=0.4, value=1.0, label=label, truth="",
    )  # fmt: skip
    return label_formats.Item(sample, values)


@pytest.mark.parametrize(
    ("kind", "image"), [("csv", True), ("csv", False), ("coco", True), ("label-studio", True), ("label-studio", False)]
)
@given(labels=st.lists(st.sampled_from([None, *NAMES]), min_size=1, max_size=6))
def test_labels_come_back_as_they_went(
    tmp_path_factory: pytest.TempPathFactory, kind: str, image: bool, labels: list[str | None]
) -> None:
    folder = tmp_path_factory.mktemp("labels")
    items = [item(number, label, image) for number, label in enumerate(labels)]
    files = label_formats.FORMATS[kind](items, NAMES)
    name = next(iter(files))
    (folder / name).write_text(files[name])
    wanted = [LabelAssignment(i.sample.device, i.sample.key, i.sample.label) for i in items if i.sample.label]
    assert list(label_formats.read(folder / name)) == wanted


def test_media_are_what_people_can_look_at() -> None:
    image = item(1, None, True)
    assert (np.asarray(Image.open(io.BytesIO(image.media()[image.file]))) == image.values).all()
    series = item(2, None, False)
    rows = list(csv.reader(io.StringIO(series.media()[series.file].decode())))
    assert rows[0] == ["step", "channel_0", "channel_1"]
    assert (np.array(rows[1:], float)[:, 1:] == series.values).all()
    assert "TimeSeries" in label_formats.to_label_studio([series], NAMES)["label-studio.xml"]


def test_what_other_tools_make_of_it_is_read(tmp_path: Path) -> None:
    key = "f" * 64
    (tmp_path / "short.json").write_text(
        json.dumps([{"image": f"/data/upload/1/8ab3-x/pi-7-{key}.png", "label": "plain", "id": 1}])
    )
    assert list(label_formats.read(tmp_path / "short.json")) == [LabelAssignment("pi-7", key, "plain")]
    (tmp_path / "files.csv").write_text(f"label,file\nplain,media\\pi-7-{key}.png\n,media/pi-8-{key}.png\n")
    assert list(label_formats.read(tmp_path / "files.csv")) == [LabelAssignment("pi-7", key, "plain")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{"),
        ("a.json", "[1, 2]"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}], "categories": []}'),
        ("a.json", '[{"image": "nothing.png", "label": "x"}]'),
        ("a.json", "[" * 100_000),
        ("a.csv", "label\nx\n"),
        ("a.csv", "file,label\nnothing.png,x\n"),
    ],
)
def test_a_file_that_holds_no_labels_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"a\.|DEVICE-KEY"):
        list(label_formats.read(tmp_path / name))
    said = command("edgeloop", "labels", "import", tmp_path / name, EDGELOOP_HUB="http://127.0.0.1:1", EDGELOOP_HUB_TOKEN="x")
    assert len(sentence(said, 3).strip().splitlines()) == 1
