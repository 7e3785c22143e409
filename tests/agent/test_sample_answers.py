"""What a sample brings of the model's answer, how large it may be, and which frames are doubtful."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from annotated_models import HEIGHT, LABELS, MASKED, POINTED, WIDTH, masker, pointer
from edgeloop_agent.box_answers import Box
from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.config.settings import Tracking
from edgeloop_agent.drift.monitor import DriftObservation
from edgeloop_agent.engine import Answer, Engine
from edgeloop_agent.metrics import Counts
from edgeloop_agent.outbox import answers
from edgeloop_agent.outbox.answers import annotation_of, doubt_of
from edgeloop_agent.outbox.selection import Doubt
from edgeloop_agent.outbox.store import Outbox, outbox_path
from edgeloop_agent.outbox.writer import OutboxWriter
from edgeloop_agent.tracking.following import Following
from edgeloop_contract.annotations import AnnotatedBox, Annotation
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.boxes.layouts import Rows
from edgeloop_contract.manifest import Classification, Regression
from edgeloop_contract.messages import Sample
from edgeloop_contract.tasks import Detection, Segmentation

BOXES = Detection(labels=list(LABELS), decode=Rows(channels="first"), score_threshold=0.25)
MASKS = Segmentation(labels=["none", "a"], height=200, width=200, background="none")
NOBODY = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)


def detected(*found: tuple[list[float], float]) -> Answer:
    """Boxes with scores of the label dog, as the model's output."""
    rows = np.zeros((1, 4 + len(LABELS), max(1, len(found))), np.float32)
    for i, ((x1, y1, x2, y2), score) in enumerate(found):
        rows[0, :4, i] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        rows[0, 5, i] = score
    return Answer(0, sample=NOBODY, scores={"boxes": rows})


def apart(*scores: float) -> Answer:
    return detected(*(([10.0 * i, 0.0, 10.0 * i + 8, 8.0], score) for i, score in enumerate(scores)))


@pytest.mark.parametrize(
    ("scores", "most", "total"),
    [
        ((), 0.0, 0.0), ((0.25,), 1.0, 1.0), ((1.0,), 0.0, 0.0), ((0.95, 0.26), 0.98667, 1.05333), ((0.95, 0.125), 0.5, 0.56667),
        ((0.95, 0.04), 0.06667, 0.06667), ((0.25, 0.25, 0.125), 1.0, 2.5),
    ],
)  # fmt: skip
def test_a_box_near_the_threshold_makes_a_frame_doubtful(scores: tuple[float, ...], most: float, total: float) -> None:
    """However many sure ones there are; below the lowest score that is looked at nothing is a box."""
    assert doubt_of(BOXES, apart(*scores)) == pytest.approx((most, total), abs=1e-3)


def test_an_object_that_was_followed_and_is_gone_makes_a_frame_doubtful(tmp_path: Path) -> None:
    """In the middle of the picture; not where it leaves."""
    for step, lost in ((0.0, True), (25.0, False)):
        following = Following(Tracking(enabled=True), tmp_path / str(step), Log())
        seen = []
        for frame in range(5):
            x = 20.0 + step * frame / 5
            following.follow([Box("dog", 0.9, [x, 10.0, x + 20, 30.0])], HEIGHT, WIDTH, 0)
            seen.append(following.lost)
        following.follow([], HEIGHT, WIDTH, 0)
        assert not any(seen) and following.lost is lost
        following.follow([], HEIGHT, WIDTH, 0)
        assert not following.lost, "it is said once"
    assert doubt_of(BOXES, msgspec.structs.replace(apart(1.0), lost=True)) == (1.0, 1.0)


def test_other_tasks_have_their_confidence() -> None:
    assert doubt_of(Classification(labels=["a", "b"]), Answer(0, label="a", sample=NOBODY, scores=np.zeros((1, 2)))) is None


def test_boxes_are_cut_off_at_the_samples_edge() -> None:
    found = annotation_of(BOXES, detected(([-5.0, -5.0, 20.0, 60.0], 0.9), ([-9.0, 0.0, -1.0, 9.0], 0.8)))
    assert found == Annotation(boxes=[AnnotatedBox("dog", (0.0, 0.0, 20.0, 48.0), 0.9)])


def test_points_that_are_likely_there_are_answered(tmp_path: Path) -> None:
    """By a model that a device runs; what is out of the sample is not known."""
    with Bundle.open(pointer(tmp_path / "points.edgeloop")) as bundle:
        engine = Engine(bundle, VariantChoice(bundle.manifest.variants[0].name, 1, "asked for"))
        sample = np.full((1, *bundle.manifest.variants[0].input.shape), 90, np.uint8)
        outputs = dict(engine.outputs({"input": sample}, engine.new_memory()))
        assert annotation_of(bundle.manifest.task, Answer(0, sample=sample, scores=outputs)) == Annotation(boxes=[POINTED])
        outputs["points"] = outputs["points"] - np.float32([3, 0, 0, 0, 0, 0])
        (box,) = annotation_of(bundle.manifest.task, Answer(0, sample=sample, scores=outputs)).boxes
        assert box.points == [(0.0, 0.0, 0)] * 2


def test_masks_of_things_are_answered_as_long_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the best boxes; the boxes themselves are there in any case."""
    with Bundle.open(masker(tmp_path / "things.edgeloop")) as bundle:
        engine = Engine(bundle, VariantChoice(bundle.manifest.variants[0].name, 1, "asked for"))
        sample = np.full((1, HEIGHT, WIDTH, 3), 90, np.uint8)
        outputs = dict(engine.outputs({"input": sample}, engine.new_memory()))
        task = bundle.manifest.task
        assert annotation_of(task, Answer(0, sample=sample, scores=outputs)) == Annotation(boxes=[MASKED])
        twice = {**outputs, "rows": outputs["rows"].copy()}
        twice["rows"][0, :, 4] = [30, 6, 20, 8, 0, 0.8, 0, 1]
        monkeypatch.setattr(answers, "MAX_RUNS", len(MASKED.mask.counts) + 3)
        best, other = annotation_of(task, Answer(0, sample=sample, scores=twice)).boxes
        assert best == MASKED and other.mask is None and other.box == (20.0, 2.0, 40.0, 10.0)


def test_noise_is_no_mask_to_correct() -> None:
    """A mask of single pixels has more run lengths than a sample may bring."""
    scores = np.zeros((1, 2, 200, 200), np.float32)
    scores[0, 1, ::2, ::2] = 1.0
    sample = np.zeros((1, 200, 200, 3), np.uint8)
    assert annotation_of(MASKS, Answer(0, sample=sample, scores={"masks": scores})) is None
    scores[0, 1, :100, :100] = 1.0
    scores[0, 1, 100:] = scores[0, 1, :, 100:] = -1.0
    painted = annotation_of(MASKS, Answer(0, sample=sample, scores={"masks": scores}))
    assert painted is not None and [mask.label for mask in painted.masks or []] == ["a"]


@pytest.mark.parametrize(
    ("values", "wanted"), [({"x": 1.5, "y": 2.0}, [1.5, 2.0]), ({"x": float("nan"), "y": 0.0}, None), (None, None)]
)
def test_values_are_those_of_all_quantities(values: dict[str, float] | None, wanted: list[float] | None) -> None:
    found = annotation_of(Regression(quantities=["x", "y"], mean=[0, 0], std=[1, 1]), Answer(0, values=values))
    assert (found and found.values) == wanted


class Log:
    def __call__(self, *_: object, **__: object) -> None: ...


def test_doubt_chooses_and_context_samples_bring_no_answer(tmp_path: Path) -> None:
    """The mean score of these frames is the same; only the doubtful one is chosen, and only its answer is asked for."""
    settings = Settings(send="samples", random_share=0.0, uncertain_share=0.05, context_bytes=1 << 20)
    outbox_writer = OutboxWriter(settings, tmp_path, Counts(), Log())
    asked: list[str] = []

    def answer(name: str) -> Any:
        asked.append(name)
        return Annotation(boxes=[])

    for i, doubt in enumerate((0.05, 0.9, 0.05)):
        look = DriftObservation(features=np.full(4, 10.0 * i), confidence=0.6, drifting=False, label=0)
        outbox_writer.sample(f"r{i}", 0, NOBODY, "", look, "", "m", "0" * 64, Doubt(doubt, doubt), lambda i=i: answer(f"r{i}"))  # type: ignore[misc]
    outbox_writer.stop()
    rows = Outbox(outbox_path(tmp_path), 1 << 20).batch(1 << 20, 10)
    (sample,) = [msgspec.msgpack.decode(row.body, type=Sample) for row in rows]
    assert asked == ["r1"] and (sample.recording, sample.kind, sample.answer) == ("r1", "uncertain", Annotation(boxes=[]))
    assert len(zlib.decompress(sample.data)) == NOBODY.nbytes
