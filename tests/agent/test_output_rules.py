"""Which answers an output sends."""

from __future__ import annotations

import pytest

from edgeloop_agent.answering import AnswerLine
from edgeloop_agent.box_answers import Box
from edgeloop_agent.config import Output
from edgeloop_agent.label_answers import Label
from edgeloop_agent.outputs.rules import Rules


def label(name: str, share: float = 0.9) -> AnswerLine:
    return AnswerLine(name, 0, name, {name: share, "rest": 1 - share})


def boxes(*names: str, score: float = 0.9) -> AnswerLine:
    return AnswerLine("f", 0, boxes=[Box(name, score, [0, 0, 1, 1]) for name in names])


def test_labels_confidence_and_changes_of_labels() -> None:
    rules = Rules(Output(labels=["a", "b"], min_confidence=0.5, only_changes=True))
    lines = [label("c"), label("a"), label("a"), label("a", 0.4), label("a"), label("b"), label("c"), label("c")]
    sent = [rules.chosen(line, 0) for line in lines]
    assert [None if x is None else x.label for x in sent] == [None, "a", None, "", "a", "b", "", None]


def test_boxes_are_left_out_and_counted() -> None:
    rules = Rules(Output(labels=["a"], min_confidence=0.5))
    assert rules.chosen(boxes("b"), 0) is None and rules.chosen(boxes("a", score=0.4), 0) is None
    assert [box.label for box in rules.chosen(boxes("a", "b", "a"), 0).boxes] == ["a", "a"]  # type: ignore[union-attr]
    rules = Rules(Output(labels=["a"], only_changes=True))
    sent = [rules.chosen(line, 0) for line in (boxes(), boxes("b"), boxes("a"), boxes("a", "b"), boxes("a", "a"), boxes(), boxes())]
    assert [None if x is None else len(x.boxes or []) for x in sent] == [None, None, 1, None, 2, 0, None]


def test_several_labels() -> None:
    def holds(*names: str) -> AnswerLine:
        return AnswerLine("x", 0, labels=[Label(name, 0.9) for name in names])

    rules = Rules(Output(labels=["a", "b"], only_changes=True))
    sent = [rules.chosen(line, 0) for line in (holds("c"), holds("a", "c"), holds("a"), holds("a", "b"), holds(), holds())]
    assert [None if x is None else [one.label for one in x.labels or []] for x in sent] == [None, ["a"], None, ["a", "b"], [], None]


def test_not_more_often_and_a_change_is_not_lost() -> None:
    rules = Rules(Output(every_seconds=10, only_changes=True))
    times = [(0.0, "a"), (1.0, "b"), (9.0, "b"), (10.0, "b"), (12.0, "c"), (15.0, "b"), (21.0, "b")]
    assert [at for at, name in times if rules.chosen(label(name), at) is not None] == [0.0, 10.0]
    rules = Rules(Output(every_seconds=10))
    assert [at for at in range(25) if rules.chosen(label("a"), at) is not None] == [0, 10, 20]


@pytest.mark.parametrize("settings", [Output(), Output(only_changes=True, labels=["a"])])
def test_refusals_pass(settings: Output) -> None:
    assert Rules(settings).chosen(AnswerLine("x", refused="broken"), 0) is not None


def test_values_and_repeated_lines() -> None:
    rules = Rules(Output(only_changes=True))
    lines = [AnswerLine("x", 0, values={"m": 1.0}), AnswerLine("y", 0, values={"m": 1.0}), AnswerLine("z", 0, values={"m": 1.5})]
    assert [rules.chosen(line, 0) is not None for line in lines] == [True, False, True]
