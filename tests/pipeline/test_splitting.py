"""Quotas: who goes into which split."""

from __future__ import annotations

import random
import string
from collections import Counter

import pytest

from edgeloop_contract.errors import DataError
from edgeloop_pipeline.data.datasets.splitting import Wanted, check_given, divide, divide_values

SPLITS = {"train", "validation", "test"}


def named(count: int, seed: int) -> list[str]:
    pick = random.Random(seed)
    return ["".join(pick.choices(string.ascii_letters + string.digits, k=pick.randint(1, 8))) + str(i) for i in range(count)]


@pytest.mark.parametrize("count", [3, 4, 5, 8, 9, 12, 30])
def test_small_studies_are_divided_whatever_their_subjects_are_called(count: int) -> None:
    for seed in range(200):
        subjects = named(count, seed)
        labels = [label for _ in subjects for label in ("walk", "run", "rest") for _ in range(3)]
        units = [subject for subject in subjects for _ in range(9)]
        sides = divide(labels, units, "subject")
        assert {split: len({u for u, s in zip(units, sides, strict=True) if s == split}) for split in SPLITS} == {
            "validation": max(1, round(0.15 * count)), "test": max(1, round(0.15 * count)),
            "train": count - 2 * max(1, round(0.15 * count)),
        }  # fmt: skip
        assert all(len({s for u, s in zip(units, sides, strict=True) if u == subject}) == 1 for subject in subjects)
        shuffled = list(zip(labels, units, sides, strict=True))
        random.Random(seed).shuffle(shuffled)
        again = divide([a for a, _, _ in shuffled], [b for _, b, _ in shuffled], "subject")
        assert again == [side for *_, side in shuffled]


def test_every_class_is_in_every_split_though_few_did_it() -> None:
    for seed in range(200):
        subjects = named(8, seed)
        did = {"walk": subjects, "run": subjects[:3], "climb": subjects[4:7]}
        pairs = [(label, subject) for label, some in did.items() for subject in some for _ in range(4)]
        sides = divide([label for label, _ in pairs], [subject for _, subject in pairs], "subject")
        for label in did:
            assert {side for (name, _), side in zip(pairs, sides, strict=True) if name == label} == SPLITS


def test_files_are_divided_class_by_class() -> None:
    labels = ["rare"] * 3 + ["often"] * 1000
    sides = divide(labels, [f"{i}.png" for i in range(1003)], "file")
    assert Counter(sides[:3]) == {"train": 1, "validation": 1, "test": 1}
    assert Counter(sides[3:]) == {"train": 700, "validation": 150, "test": 150}


def test_ten_thousand_subjects_of_several_classes_are_divided_at_once() -> None:
    subjects = [f"s{i // 3}" for i in range(30_000)]
    sides = divide([f"c{i % 3}" for i in range(30_000)], subjects, "subject")
    assert set(sides) == SPLITS


def test_too_few_are_told_with_their_numbers() -> None:
    with pytest.raises(
        DataError, match=r"class 'run' has 1 subject to divide \(p1\), and train and validation and test need one each"
    ):
        divide(["walk", "walk", "walk", "run"], ["p0", "p1", "p2", "p1"], "subject")
    with pytest.raises(DataError, match=r"class 'a' has 2 files.*class 'b' has 1 file "):
        divide(["a", "a", "b"], ["1", "2", "3"], "file")


def test_who_is_where_can_be_named() -> None:
    subjects = [f"p{i}" for i in range(6)]
    both = divide(["walk"] * 6, subjects, "subject", Wanted(validation=("p3",), test=("p0", "p5")))
    assert both == ["test", "train", "train", "validation", "train", "test"]
    one = divide(["walk"] * 6, subjects, "subject", Wanted(test=("p0",)))
    assert one[0] == "test" and Counter(one) == {"train": 4, "validation": 1, "test": 1}
    with pytest.raises(DataError, match="there is no subject 'p9'"):
        divide(["walk"] * 6, subjects, "subject", Wanted(test=("p9",)))
    with pytest.raises(DataError, match="'p1' is in validation and in test"):
        divide(["walk"] * 6, subjects, "subject", Wanted(validation=("p1",), test=("p1",)))


@pytest.mark.parametrize("count", [6, 7, 9, 20])
def test_quantities_that_never_change_within_a_machine_differ_in_each_split(count: int) -> None:
    for seed in range(50):
        machines = named(count, seed)
        values = [float(i) for i in range(count) for _ in range(5)]
        units = [machine for machine in machines for _ in range(5)]
        sides = divide_values(values, units, "machine")
        for split in SPLITS:
            assert len({v for v, s in zip(values, sides, strict=True) if s == split}) >= 2
        assert sides[0] == sides[-1] == "train"  # the ends are learnt, not guessed
    with pytest.raises(DataError, match=r"5 machines to divide.*two each, because the quantity never changes"):
        divide_values([1.0, 2.0, 3.0, 4.0, 5.0], list("abcde"), "machine")


def test_a_class_that_training_lacks_is_named() -> None:
    with pytest.raises(DataError, match="class 'truck' has 1 for validation and 2 for test, and none for train"):
        check_given(["car", "truck", "truck", "truck", "car"], ["train", "test", "validation", "test", "test"])
