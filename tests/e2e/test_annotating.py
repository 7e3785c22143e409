"""Boxes, masks and values of the field: a device's samples with its answers, two people, the hub that settles what they agree on."""

from __future__ import annotations

import json
import re
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from annotated_models import BOXES, HEIGHT, INSIDE, WIDTH
from annotating import CAT, DOG, annotated_hub, boxes, corrected, fields, known, open_samples, say, settle
from commands import command
from edgeloop_contract.annotations import Annotation
from edgeloop_contract.masks import mask_of, run_lengths
from edgeloop_contract.sample_messages import StoredSample
from edgeloop_pipeline.data.datasets.annotations.formats import read_annotations
from hubs import Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """With samples of a model of each kind, each from its own device; two people must agree."""
    with annotated_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def people(hub: Hub) -> dict[str, Callable[..., str]]:
    return {name: hub.signed_in(name) for name in ("ada", "berta")}


def test_a_sample_brings_the_models_answer_in_its_own_pixels(hub: Hub) -> None:
    answer = known(hub, open_samples(hub, "boxes")[0])
    assert (answer.part, answer.shape, answer.names[:2]) == ("boxes", [HEIGHT, WIDTH, 3], ["cat", "dog"])
    found = {box.label: (box.box, box.score) for box in (answer.answer and answer.answer.boxes) or []}
    assert {label: (box, pytest.approx(score, abs=1e-4)) for label, (box, score) in BOXES.items()} == found
    painted = known(hub, open_samples(hub, "masks")[0])
    assert painted.names == ["red"]
    (mask,) = (painted.answer and painted.answer.masks) or []
    assert mask.label == "red" and mask_of(mask.counts, *mask.size)[10:20, 10:30].all() and sum(mask.counts[1::2]) == 200
    assert known(hub, open_samples(hub, "labels")[0]).answer == Annotation(labels=["bright"])
    (level, tenth) = (known(hub, open_samples(hub, "values")[0]).answer or Annotation(values=[])).values or []
    assert level == pytest.approx(10 * tenth, rel=1e-4)


def test_two_people_settle_what_they_agree_on_by_the_form(hub: Hub, people: dict[str, Callable[..., str]]) -> None:
    """The first corrects the model's boxes, the second says nearly the same: their mean is settled and handed to retraining."""
    page = people["ada"]("/queue?model=boxes-1")
    form = fields(page)
    start = msgspec.json.decode(form["annotation"], type=Annotation)
    assert [box.label for box in start.boxes or []] == ["dog", "cat"] and "noscript" in page and "/annotate.js" in page
    sample = {"device": form["device"], "key": form["key"]}
    right = boxes(("dog", DOG), ("cat", [30.0, 30.0, 50.0, 46.0]))
    people["ada"]("/annotations", **{**form, "annotation": json.dumps(right)})
    assert known(hub, sample).settled is None
    page = people["berta"](f"/queue?device={sample['device']}&key={sample['key']}")
    assert "Also annotated by ada" in page and "30.0" not in fields(page)["annotation"]
    near = boxes(("cat", [32.0, 30.0, 52.0, 46.0]), ("dog", DOG))
    people["berta"]("/annotations", **{**fields(page), "annotation": json.dumps(near)})
    settled = known(hub, sample).settled
    assert settled is not None
    assert {box.label: box.box for box in settled.boxes or []} == {"dog": tuple(DOG), "cat": (31.0, 30.0, 51.0, 46.0)}
    page_of_labelled = hub.http.get_packed("/api/v1/labelled?model=boxes-1", list[StoredSample])
    (stored,) = [each for each in page_of_labelled if each.key == sample["key"]]
    assert stored.annotation == settled and stored.label is None and stored.labelled_itself
    assert sample["key"] not in {each["key"] for each in hub.get("/api/v1/queue?model=boxes-1&who=carl")}


def test_who_disagrees_is_shown_and_may_correct_it(hub: Hub, people: dict[str, Callable[..., str]]) -> None:
    sample = open_samples(hub, "boxes")[-1]
    assert say(hub, sample, "import", boxes(("dog", DOG), ("cat", CAT))) == 0
    page = people["ada"](f"/queue?device={sample['device']}&key={sample['key']}")
    people["ada"]("/annotations", **{**fields(page), "annotation": json.dumps(boxes(("cat", DOG), ("cat", CAT)))})
    shown = people["ada"]("/disagreements")
    assert "import and ada: 1 of 2 boxes agree" in shown and "open sample" in people["berta"]("/queue")
    page = people["ada"](f"/queue?device={sample['device']}&key={sample['key']}")
    own = msgspec.json.decode(fields(page)["annotation"], type=Annotation)
    assert "You annotated this sample before" in page and [box.label for box in own.boxes or []] == ["cat", "cat"]
    people["ada"]("/annotations", **{**fields(page), "annotation": json.dumps(boxes(("dog", DOG), ("cat", CAT)))})
    assert known(hub, sample).settled and "Nobody disagrees" in people["ada"]("/disagreements")


def test_masks_settle_by_mean_iou_and_values_by_a_tolerance(hub: Hub, people: dict[str, Callable[..., str]]) -> None:
    def mask(rows: int) -> dict[str, Any]:
        pixels = np.zeros((HEIGHT, WIDTH), bool)
        pixels[:rows, :20] = True
        return {"masks": [{"label": "red", "size": [HEIGHT, WIDTH], "counts": run_lengths(pixels)}]}

    sample = open_samples(hub, "masks")[0]
    assert [say(hub, sample, who, mask(rows)) for who, rows in (("a", 10), ("b", 20), ("c", 11))] == [0, 0, 1]
    settled = known(hub, sample).settled
    assert settled == msgspec.convert(mask(11), Annotation)  # the newest of those that agree
    form = fields(page := people["ada"]("/queue?model=values-1"))
    assert 'name="value.0"' in page and "level" in page and "tenth" in page
    assert say(hub, form, "import", {"values": [3.0, 0.3]}) == 0
    people["ada"]("/annotations", **form, **{"value.0": "3.5", "value.1": "0.3"})
    assert (known(hub, form).settled or Annotation(values=[])).values == [3.25, 0.3]
    form = fields(page := people["ada"]("/queue?model=labels-1"))
    assert re.search(r'value="bright" checked', page) and 'value="dark">' in page
    assert say(hub, form, "import", {"labels": ["dark"]}) == 0
    people["ada"]("/annotations", **form, **{"holds.1": "dark"})
    assert known(hub, form).settled == Annotation(labels=["dark"])


def test_nothing_there_is_an_answer_and_cannot_tell_is_none(hub: Hub, people: dict[str, Callable[..., str]]) -> None:
    nothing, unclear = open_samples(hub, "boxes")[:2]
    settle(hub, nothing, boxes())
    assert known(hub, nothing).settled == Annotation(boxes=[])
    form = fields(people["ada"](f"/queue?device={unclear['device']}&key={unclear['key']}"))
    people["ada"]("/annotations", **form, skip="1")
    assert unclear["key"] not in {each["key"] for each in open_samples(hub, "boxes")}


REFUSED: dict[str, tuple[str, object, str]] = {
    "a box outside": ("boxes", boxes(("dog", [0, 0, WIDTH + 1, 10])), "reaches out of the sample of 64 × 48 pixels"),
    "a box before the edge": ("boxes", boxes(("dog", [-1, 0, 9, 10])), "reaches out"),
    "an unknown label": ("boxes", boxes(("cow", DOG)), "knows no label 'cow'"),
    "no label": ("boxes", boxes(("", DOG)), "a label is empty"),
    "a box without area": ("boxes", boxes(("dog", [5, 5, 5, 9])), "left edge before its right one"),
    "too many boxes": ("boxes", boxes(*[("dog", DOG)] * 1001), "1000"),
    "masks of a detector": ("boxes", {"masks": []}, "an annotation has masks; boxes-1 answers boxes"),
    "two parts": ("boxes", {"boxes": [], "values": []}, "one of boxes, masks, values and labels"),
    "a mask of another size": ("masks", {"masks": [{"label": "red", "size": [2, 2], "counts": [4]}]}, "a mask of 2 × 2 pixels"),
    "a mask that is not full": ("masks", {"masks": [{"label": "red", "size": [HEIGHT, WIDTH], "counts": [4]}]}, "fill the mask"),
    "one label twice": (
        "masks",
        {"masks": [{"label": "red", "size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}] * 2},
        "two masks have one label",
    ),
    "a pixel with two labels": (
        "masks",
        {"masks": [{"label": n, "size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]} for n in ("red", "background")]},
        "has another label too",
    ),
    "too few values": ("values", {"values": [1.0]}, "1 values; values-1 has 2: level, tenth"),
    "labels of a regression": ("values", {"labels": ["a"]}, "an annotation has labels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(name: str, hub: Hub) -> None:
    part, annotation, why = REFUSED[name]
    sample = open_samples(hub, part)[0]
    before = known(hub, sample)
    with pytest.raises(Exception, match=re.escape(why)):
        say(hub, sample, "import", annotation)
    assert known(hub, sample) == before


def test_a_label_alone_says_nothing_of_boxes(hub: Hub) -> None:
    sample = open_samples(hub, "boxes")[0]
    with pytest.raises(Exception, match="boxes-1 answers boxes; a label alone does not say them"):
        hub.post("/api/v1/labels", {"labels": [{"device": sample["device"], "key": sample["key"], "label": "dog"}]})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boxes": 5}', '{"boxes": [{}]}', "[" * 10_000, '{"values": [1]}'])
def test_a_spoiled_form_is_a_page_with_one_sentence(text: str, hub: Hub, people: dict[str, Callable[..., str]]) -> None:
    sample = open_samples(hub, "boxes")[0]
    form = fields(people["ada"](f"/queue?device={sample['device']}&key={sample['key']}"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        people["ada"]("/annotations", **{**form, "annotation": text})
    told = refused.value.read().decode()
    assert refused.value.code == 400 and "Traceback" not in told and "That did not work" in told


def test_a_backup_brings_annotations_back(hub: Hub, tmp_path: Path) -> None:
    settle(hub, open_samples(hub, "boxes")[0], boxes(("dog", DOG)))
    hub.run("backup", tmp_path / "hub.backup")
    done = command("edgeloop-hub", "--data", tmp_path / "again", "restore", tmp_path / "hub.backup")
    assert done.returncode == 0, done.stderr
    from edgeloop_hub.samples import annotating
    from edgeloop_hub.storage.database import Database

    labelled = hub.get("/api/v1/samples?which=labelled&model=boxes-1")
    assert labelled
    with Database(f"sqlite:///{tmp_path}/again/hub.sqlite").reading() as database:
        for sample in labelled:
            assert annotating.of_sample(database, sample["device"], sample["key"]) == known(hub, sample)


ELSEWHERE = [(part, kind) for part, kinds in (
    ("boxes", ("csv", "coco", "yolo", "label-studio")), ("masks", ("coco", "label-studio")), ("values", ("csv", "label-studio")),
    ("labels", ("csv", "coco", "label-studio")),
) for kind in kinds]  # fmt: skip


@pytest.mark.parametrize(("part", "kind"), ELSEWHERE)
def test_another_tool_begins_with_the_models_answer(part: str, kind: str, hub: Hub, tmp_path: Path) -> None:
    """Exported, confirmed there, and brought back: the answer of the model is then what a person said."""
    told = hub.edgeloop("labels", "export", tmp_path / "out", "--model", f"{part}-1", "--format", kind)
    samples = open_samples(hub, part)
    assert f": {len(samples)} samples" in told and samples
    pictures = list((tmp_path / "out" / ("images" if kind == "yolo" else "media")).glob("*.png"))
    with Image.open(pictures[0]) as picture:
        assert len(pictures) == len(samples) and picture.size == (WIDTH, HEIGHT)
    for sample in samples:  # which the import replaces
        say(hub, sample, "studio", {part: [0.0, 0.0] if part == "values" else []})
    said = hub.edgeloop("labels", "import", corrected(tmp_path / "out", kind), "--who", "studio")
    assert f"{len(samples)} labels, 0 samples settled" in said
    for sample in samples:
        found = known(hub, sample)
        assert found.answer is not None
        mine = found.people["studio"]
        if part == "boxes":
            assert mine.boxes and all(box.score is None for box in mine.boxes)
            pairs = zip(mine.boxes, found.answer.boxes or [], strict=True)
            assert all(a.label == b.label and a.box == pytest.approx(b.box, abs=1e-3) for a, b in pairs)
        else:
            assert mine == found.answer


def test_masks_of_things_go_to_another_tool_and_back(hub: Hub, tmp_path: Path) -> None:
    """As COCO; a format that holds boxes alone says so."""
    told = hub.edgeloop("labels", "export", tmp_path / "yolo", "--model", "things-1", "--format", "yolo")
    assert "yolo holds boxes without their masks here; --format coco holds the masks too" in told
    told = hub.edgeloop("labels", "export", tmp_path / "out", "--model", "things-1", "--format", "coco")
    assert "without their masks" not in told
    hub.edgeloop("labels", "import", corrected(tmp_path / "out", "coco"), "--who", "studio")
    for sample in open_samples(hub, "things"):
        found = known(hub, sample)
        assert found.masks_of_boxes and found.answer is not None
        (mine,), (answered,) = found.people["studio"].boxes or [], found.answer.boxes or []
        assert mine.mask is not None and mine.mask == answered.mask and mine.score is None
        assert (mask_of(mine.mask.counts, *mine.mask.size) == INSIDE).all()


def test_what_was_settled_goes_out_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    for sample, said in zip(open_samples(hub, "boxes"), (boxes(("dog", DOG), ("cat", CAT)), boxes()), strict=False):
        settle(hub, sample, said)
    labelled = [known(hub, sample) for sample in hub.get("/api/v1/samples?model=boxes-1&which=labelled")]
    for kind, name in (("coco", "coco.json"), ("csv", "labels.csv"), ("yolo", ""), ("label-studio", "label-studio.json")):
        hub.edgeloop("labels", "export", tmp_path / kind, "--model", "boxes-1", "--format", kind, "--which", "labelled")
        if name != "label-studio.json":  # a data set too
            read = read_annotations(tmp_path / kind)
            assert len(read.pictures) == len(labelled)
            assert sum(len(picture.boxes) for picture in read.pictures) == sum(
                len((e.settled and e.settled.boxes) or []) for e in labelled
            )
        said = hub.edgeloop("labels", "import", tmp_path / kind / name, "--who", "back")
        assert f"{len(labelled)} labels" in said, kind
        for before in labelled:
            back = known(hub, {"device": before.device, "key": before.key}).people["back"].boxes or []
            assert [box.label for box in back] == [box.label for box in (before.settled and before.settled.boxes) or []], kind


def test_a_picture_that_is_no_sample_is_one_sentence_and_nothing_is_sent(hub: Hub, tmp_path: Path) -> None:
    sample = open_samples(hub, "boxes")[0]
    rows = [f"media/{sample['device']}-{sample['key']}.png,dog,1,1,5,5,64,48", f"media/pi-boxes-{'0' * 32}.png,dog,1,1,5,5,64,48"]
    (tmp_path / "a.csv").write_text("\n".join(["file,label,xmin,ymin,xmax,ymax,width,height", *rows]) + "\n")
    told = hub.edgeloop("labels", "import", tmp_path / "a.csv", "--who", "stranger", code=3)
    assert f"pi-boxes-{'0' * 32} is no sample of this hub; nothing was sent" in told and len(told.strip().splitlines()) == 1
    assert "stranger" not in known(hub, sample).people
    (tmp_path / "a.csv").write_text((tmp_path / "a.csv").read_text().replace("dog,1", "cow,1"))
    assert "knows no label 'cow'" in hub.edgeloop("labels", "import", tmp_path / "a.csv", code=3)
    assert "holds no masks" in hub.edgeloop("labels", "export", tmp_path / "out", "--model", "masks-1", code=3)
    assert not (tmp_path / "out").exists()
