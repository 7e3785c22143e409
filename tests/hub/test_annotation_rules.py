"""When two people's annotations agree, what is settled then, and what the hub keeps of a device's answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import insert

from arrived import made, stored
from edgeloop_contract.annotations import AnnotatedBox, AnnotatedMask, Annotation, BoxMask
from edgeloop_contract.hub_messages import BundleSummary
from edgeloop_contract.masks import run_lengths
from edgeloop_contract.messages import Sample, Samples
from edgeloop_hub.auth.accounts import EnrolledDevice
from edgeloop_hub.samples import accuracy, annotating, ingest, label_queue, labelling, sample_store
from edgeloop_hub.samples.agreement import AgreementRules, agreeing, compare, joined
from edgeloop_hub.storage.database import Database
from edgeloop_hub.storage.deletion import delete_in_parts
from edgeloop_hub.storage.schema import bundles

PI = EnrolledDevice("pi-1", [], "stable", "m", "0" * 64)
RULES = AgreementRules(0.5, 0.8, [1.0, 0.1], "none", ["head", "tail"])
A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def boxes(*found: tuple[str, tuple[float, float, float, float]]) -> Annotation:
    return Annotation(boxes=[AnnotatedBox(label, box) for label, box in found])


def pointed(*points: tuple[float, float, int]) -> Annotation:
    return Annotation(boxes=[AnnotatedBox("a", A, points=list(points))])


def masked(rows: int, size: tuple[int, int] = (10, 32)) -> Annotation:
    """A box with a mask of its first rows."""
    pixels = np.zeros(size, bool)
    pixels[:rows, :10] = True
    return Annotation(boxes=[AnnotatedBox("a", A, mask=BoxMask(size, run_lengths(pixels)))])


def masks(**rows: int) -> Annotation:
    """Of each label the first rows of a column of its own."""
    found = []
    for i, (label, count) in enumerate(rows.items()):
        pixels = np.zeros((10, 8), bool)
        pixels[:count, i] = True
        found.append(AnnotatedMask(label, (10, 8), run_lengths(pixels)))
    return Annotation(masks=found)


AGREEMENTS: dict[str, tuple[Annotation, Annotation, bool, str]] = {
    "nothing": (boxes(), boxes(), True, "0 of 0 boxes"),
    "another order": (boxes(("a", A), ("b", B)), boxes(("b", B), ("a", A)), True, "2 of 2"),
    "half of the union": (boxes(("a", A)), boxes(("a", (0, 0, 10, 5))), True, "1 of 1"),
    "less than half": (boxes(("a", A)), boxes(("a", (0, 0, 10, 4.9))), False, "0 of 1"),
    "another label": (boxes(("a", A)), boxes(("b", A)), False, "0 of 1"),
    "one box more": (boxes(("a", A)), boxes(("a", A), ("a", B)), False, "1 of 2"),
    "one box for two": (boxes(("a", A), ("a", A)), boxes(("a", A)), False, "1 of 2"),
    # The best pair would leave the other two alone.
    "a pair less for a better one": (
        boxes(("a", (0, 0, 10, 10)), ("a", (0, 0, 10, 16))), boxes(("a", (0, 0, 10, 14)), ("a", (0, 0, 10, 30))), True, "2 of 2",
    ),
    "masks": (masks(a=9, b=10), masks(a=10, b=8), True, "0.85"),
    "masks too far apart": (masks(a=7, b=10), masks(a=10, b=8), False, "0.75"),
    "a mask less": (masks(a=10), masks(a=10, b=1), False, "0.50"),
    "the background": (masks(a=10), masks(a=10, none=10), True, "1.00"),
    "points": (pointed((5, 5, 2), (0, 0, 0)), pointed((5.4, 5, 1), (0, 0, 0)), True, "1 of 1 boxes agree"),
    "points too far apart": (pointed((5, 5, 2), (0, 0, 0)), pointed((7, 5, 2), (0, 0, 0)), False, "the points of 0 of these"),
    "a point that one of them knows": (pointed((5, 5, 2), (1, 1, 2)), pointed((5, 5, 2), (0, 0, 0)), False, "the points of 0 of these"),
    "points beside a box alone": (pointed((5, 5, 2), (1, 1, 2)), boxes(("a", A)), True, "1 of 1"),
    "points of an earlier version": (pointed((5, 5, 2)), pointed((1, 1, 2)), True, "1 of 1"),
    "masks of things": (masked(9), masked(10), True, "1 of 1 boxes agree"),
    "masks of things too far apart": (masked(7), masked(10), False, "of 0 of these"),
    "a mask beside a box alone": (masked(7), boxes(("a", A)), True, "1 of 1"),
    "values": (Annotation(values=[1.0, 2.0]), Annotation(values=[2.0, 2.05]), True, "2 of 2"),
    "a value": (Annotation(values=[1.0, 2.0]), Annotation(values=[2.0, 2.2]), False, "1 of 2"),
    "labels": (Annotation(labels=["a", "b"]), Annotation(labels=["b", "a"]), True, "0 labels differ"),
    "a label": (Annotation(labels=["a", "b"]), Annotation(labels=["a", "c"]), False, "2 labels differ"),
    "other things": (boxes(), Annotation(values=[1.0]), False, "different kinds"),
}  # fmt: skip


@pytest.mark.parametrize("name", AGREEMENTS)
def test_two_people_agree(name: str) -> None:
    one, other, agree, text = AGREEMENTS[name]
    for a, b in ((one, other), (other, one)):
        result = compare(a, b, RULES)
        assert result.agrees is agree and text in result.text


def test_all_of_those_who_settle_agree_with_each_other() -> None:
    """The newest agrees with each of the others, and they do not with one another."""
    left, middle, right = (boxes(("a", (x, 0, x + 10, 10))) for x in (0.0, 2.0, 4.0))
    assert agreeing(middle, [left, right], RULES) == [middle, left]
    assert agreeing(middle, [right, left], RULES) == [middle, right]


def test_edges_and_values_are_means_and_masks_the_newest() -> None:
    assert joined([boxes(("a", A), ("b", B)), boxes(("b", (22, 0, 30, 8)), ("a", A))], RULES) == boxes(
        ("a", A), ("b", (21, 0, 30, 9))
    )
    assert joined([pointed((5, 5, 2), (0, 0, 0)), boxes(("a", A)), pointed((6, 5, 1), (0, 0, 0))], RULES) == pointed(
        (5.5, 5, 2), (0, 0, 0)
    )
    assert joined([boxes(("a", A)), masked(9), masked(10)], RULES) == masked(9)
    assert joined([Annotation(values=[1.0, 3.0]), Annotation(values=[2.0, 5.0])], RULES) == Annotation(values=[1.5, 4.0])
    assert joined([masks(a=9), masks(a=10)], RULES) == masks(a=9)


def published(database: Database, **about: Any) -> None:
    values = {"sha256": "0" * 64, "bytes": 1, "model": "m", "version": 1, "channel": "stable", "published": 0.0}
    with database.writing() as connection:
        connection.execute(insert(bundles).values(target="m-1", about=msgspec.json.encode(about).decode(), **values))


def picture(key: str, answer: Annotation | None, **more: Any) -> Sample:
    sample = made(key, key, float(ord(key[0])) * 10, guess="")
    return msgspec.structs.replace(sample, shape=[10, 32], answer=answer, **more)


ANSWERS: dict[str, tuple[Annotation, bool]] = {
    "fits": (boxes(("a", A)), True),
    "an unknown label": (boxes(("cow", A)), False),
    "points that it has not": (pointed((5, 5, 2)), False),
    "a mask that it does not find": (masked(9), False),
    "outside": (boxes(("a", (0, 0, 33, 5))), False),
    "of another task": (Annotation(values=[1.0]), False),
    "too large": (Annotation(boxes=[AnnotatedBox("a", A, 0.5)] * 1000), False),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_does_not_fit_is_left_out_and_its_sample_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, kept = ANSWERS[name]
    monkeypatch.setattr(annotating, "MAX_ANSWER_BYTES", 10_000)
    database, settings = stored(tmp_path, [])
    published(database, task="detection", labels=["a", "b"])
    with database.writing() as connection:
        assert ingest.store(connection, PI, Samples(samples=[picture("one", answer)]), settings)
        found = annotating.of_sample(connection, "pi-1", "key-one-0000")
    assert found is not None and found.answer == (answer if kept else None) and found.part == "boxes"


@pytest.mark.parametrize(("size", "kept"), [((10, 32), True), ((10, 30), False)])
def test_masks_of_things_have_the_size_of_the_sample(size: tuple[int, int], kept: bool, tmp_path: Path) -> None:
    database, settings = stored(tmp_path, [])
    published(database, task="instances", labels=["a", "b"])
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=[picture("one", masked(9, size))]), settings)
        found = annotating.of_sample(connection, "pi-1", "key-one-0000")
        assert found is not None and found.masks_of_boxes and found.answer == (masked(9, size) if kept else None)
        if kept:
            annotating.annotate(connection, "pi-1", "key-one-0000", "ada", masked(8), settings)
            assert annotating.of_sample(connection, "pi-1", "key-one-0000").settled == masked(8)


def test_a_bundle_that_an_earlier_hub_took_has_the_task_of_its_answers(tmp_path: Path) -> None:
    database, settings = stored(tmp_path, [])
    published(database, labels=["a", "b"])
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=[picture("one", boxes(("a", A))), picture("two", None)]), settings)
        assert annotating.annotate(connection, "pi-1", "key-one-0000", "ada", boxes(("b", A)), settings) == 1
        assert labelling.label(connection, "pi-1", "key-two-0000", "ada", "a", settings) == 1
        two = sample_store.labelled_after(connection, "m", (0.0, "", ""), 10)
    assert {row.key: (row.label, row.annotation) for row in two} == {
        "key-one-0000": (None, boxes(("b", A))), "key-two-0000": ("a", None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "part"), [("keypoints", "boxes"), ("multilabel", "labels"), ("classification", ""), ("tensors", "")]
)
def test_each_task_has_its_part(task: str, part: str, tmp_path: Path) -> None:
    """Of boxes with points people correct the boxes; an answer that the task cannot have is left out."""
    database, settings = stored(tmp_path, [])
    published(database, task=task, labels=["a"])
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=[picture("one", boxes(("a", A)))]), settings)
        found = annotating.of_sample(connection, "pi-1", "key-one-0000")
    assert found is not None and found.part == part and (found.answer is not None) == (part == "boxes")


def test_answers_count_against_the_quota_of_the_day(tmp_path: Path) -> None:
    database, settings = stored(tmp_path, [])
    published(database, task="detection", labels=["a"])
    large = Annotation(boxes=[AnnotatedBox("a", A, 0.5)] * 100)
    small = replace(settings, sample_bytes_per_day=len(msgspec.msgpack.encode(large)) + 100)
    with database.writing() as connection:
        assert ingest.store(connection, PI, Samples(samples=[picture("one", large)]), small)
        assert not ingest.store(connection, PI, Samples(samples=[picture("two", large)]), small)
        assert not ingest.has_room(connection, PI, Samples(samples=[picture("two", large), picture("six", large)]), small)
        assert ingest.store(connection, PI, Samples(samples=[picture("two", None)]), small)


def test_an_annotation_is_no_label_of_what_is_like_it_and_measures_no_accuracy(tmp_path: Path) -> None:
    """A near-duplicate has its boxes elsewhere; nobody is asked about it either. A device's own label says nothing of boxes."""
    database, settings = stored(tmp_path, [])
    published(database, task="detection", labels=["a"])
    first, like = picture("one", boxes(("a", A)), random=True), picture("o", boxes(), random=True, truth="a")
    with database.writing() as connection:
        ingest.store(connection, PI, Samples(samples=[first, like]), settings)
        assert [row.key for row in label_queue.waiting(connection, "m", "ada", 10)] == [first.key]
        assert annotating.annotate(connection, "pi-1", first.key, "ada", boxes(), settings) == 1
        assert label_queue.waiting(connection, "m", "ada", 10) == []
        assert [row.key for row in sample_store.listed(connection, "m", "labelled")] == [first.key]
        assert accuracy.drawn(connection, None, 0.0) == []
    assert delete_in_parts(database, sample_store.old(1e12, 1e12), 10)
    with database.reading() as connection:
        assert annotating.of_sample(connection, "pi-1", first.key) is None


def test_values_without_known_deviations_must_be_equal() -> None:
    rules = annotating.rules_of(BundleSummary(), replace(_settings(), value_agreement_std=0.5))
    assert not compare(Annotation(values=[1.0]), Annotation(values=[1.1]), rules).agrees
    rules = annotating.rules_of(BundleSummary(spread=[2.0]), replace(_settings(), value_agreement_std=0.5))
    assert compare(Annotation(values=[1.0]), Annotation(values=[2.0]), rules).agrees


def _settings() -> Any:
    from edgeloop_hub.settings import Settings

    return Settings(Path())
