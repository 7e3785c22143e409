"""What boxes say of a camera: moved, nearer, nothing to see; and what the picture says first."""

from __future__ import annotations

import numpy as np
import pytest

from edgeloop_agent.box_answers import box_feature_names
from edgeloop_agent.drift.diagnosis import diagnose
from edgeloop_contract.boxes.layouts import Rows
from edgeloop_contract.drift import Drift, channel_names
from edgeloop_contract.tasks import Detection

BOXES = box_feature_names(Detection(labels=["cell"], decode=Rows()))
NAMES = [*channel_names(3), *BOXES]
# Means of a picture: brightness 120, spread and roughness of each channel; then ten boxes of a tenth of its side in the middle.
USUAL = np.array([120.0] * 3 + [np.log1p(40)] * 3 + [np.log1p(10)] * 3 + [np.log1p(10), 0.8, np.log1p(0.1), 0.5, 0.5, 0.8])
SPREAD = np.array([10.0] * 3 + [0.2] * 3 + [0.2] * 3 + [0.3, 0.05, 0.02, 0.08, 0.08, 0.05])


def reference(names: list[str] = NAMES) -> Drift:
    count = len(names)
    one, none = [1.0] * count, [0.0] * count
    return Drift(
        features=names, labels=1, centre=[USUAL[:count].tolist()], scale=SPREAD[:count].tolist(), projections=[], mean=none * 2,
        std=one * 2, memories=[64.0], spread=[one * 2], rates=[10.0], limits=[[1e12, 1e12]],
        overall=[USUAL[:count].tolist(), SPREAD[:count].tolist()],
    )  # fmt: skip


def changed(**features: float) -> np.ndarray:
    """A hundred frames after a change; `features` by name, with _ for blanks; of channels all three."""
    after = USUAL.copy()
    for name, value in features.items():
        after[[i for i, other in enumerate(NAMES) if other.startswith(name.replace("_", " "))]] = value
    return after + np.random.default_rng(0).normal(0, 0.05, (100, len(after))) * SPREAD


CHANGES: dict[str, tuple[dict[str, float], str, str]] = {
    "moved": ({"x_of_boxes": 0.75}, "moved", "boxes lie more to the right than usual: the camera was moved or turned"),
    "turned upward": ({"y_of_boxes": 0.75}, "moved", "more to the bottom"),
    "nearer": ({"log_size": np.log1p(0.2), "roughness": np.log1p(5)}, "moved", "boxes are 2.0 times as large as usual: the camera is nearer"),
    "farther away": ({"log_size": np.log1p(0.05)}, "moved", "0.5 times as large as usual: the camera is farther away"),
    "nothing to see": ({"log_boxes": np.log1p(0.3)}, "nothing", "3% of the usual boxes: there is nothing to see"),
    "an empty slide": (
        {"log_boxes": 0.0, "x_of_boxes": 0.5, "log_size": 0.0, "spread": np.log1p(3), "roughness": np.log1p(3), "mean": 180.0},
        "nothing", "0% of the usual boxes",
    ),
    "night": (
        {"log_boxes": 0.0, "log_size": 0.0, "mean": 12.0, "spread": np.log1p(4), "roughness": np.log1p(1)}, "gain", "0.10 times as strong",
    ),
    "out of focus, and nothing is found": ({"log_boxes": 0.0, "log_size": 0.0, "roughness": np.log1p(2)}, "dirty", "fine detail is down to 20%"),
    "out of focus": ({"roughness": np.log1p(3), "log_size": np.log1p(0.11)}, "dirty", "fine detail"),
    "other things in the same places": ({"score_of_boxes": 0.5, "confidence": 0.5}, "population", "otherwise than usual"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_boxes_say_of_the_camera(name: str) -> None:
    features, cause, text = CHANGES[name]
    found = diagnose(reference(), changed(**features), np.zeros(100, int), 0, 64)
    assert found.cause == cause and text in found.text, found


def test_of_few_frames_nothing_is_said_yet() -> None:
    found = diagnose(reference(), changed(x_of_boxes=0.75)[:8], np.zeros(8, int), 0, 8)
    assert found.cause == "population"


def test_other_models_have_no_boxes() -> None:
    found = diagnose(reference(NAMES[:9]), changed(spread=np.log1p(4))[:, :9], np.zeros(100, int), 0, 64)
    assert found.cause == "gain"
