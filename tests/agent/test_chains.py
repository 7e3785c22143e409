"""Boxes of one model cropped into another one, through the agent: answers, latencies, nesting, and chains that cannot work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from bundles import onnx_file
from commands import command, edgeloop_here, sentence
from edgeloop_contract.masks import RunLengths
from moving import SIDE, F, detector, passing
from serving import GOLDEN, eventually, serving, write_config
from test_tracking_service import TRACKING, put

WATCH = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.1\n[runtime]\nthreads = 1\n'
COLOUR = '[[chain]]\nmodel = "colour"\n'


def packed(folder: Path, name: str, model: bytes, *words: str) -> Path:
    (folder / f"{name}.onnx").write_bytes(model)
    done = edgeloop_here("pack", folder / f"{name}.onnx", "--out", folder / f"{name}.edgeloop", "--name", name, *words)
    assert done.returncode == 0, done.stderr
    return folder / f"{name}.edgeloop"


def colour(folder: Path) -> Path:
    """A bundle that says whether a crop is redder or bluer."""
    weight = np.array([[0.1, -0.1], [0, 0], [-0.1, 0.1]], np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]  # fmt: skip
    model = onnx_file(nodes, [("x", F, [1, 3, 8, 8])], [("y", F, [1, 2])], w=weight)
    steps = "[{step: colour}, {step: resize, height: 8, width: 8}]"
    return packed(folder, "colour", model, "--labels", "red,blue", "--preprocess", steps)


def corner(folder: Path) -> Path:
    """A detector that finds one box in the upper left quarter of whatever it gets, with the label `corner`."""
    rows = np.array([[[0, 0, 8, 8, 0.9, 0]]], np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0), helper.make_node("Mul", ["m", "zero"], ["z"]),
        helper.make_node("Reshape", ["z", "shape"], ["s"]), helper.make_node("Add", ["s", "rows"], ["y"]),
    ]  # fmt: skip
    model = onnx_file(
        nodes, [("x", F, [1, 16, 16, 3])], [("y", F, [1, 1, 6])],
        rows=rows, zero=np.array(0, np.float32), shape=np.array([1, 1, 1]),
    )  # fmt: skip
    steps = "[{step: colour}, {step: resize, height: 16, width: 16}]"
    return packed(folder, "corner", model, "--labels", "corner,other", "--preprocess", steps, "--boxes", "{layout: final}")


def things(folder: Path) -> Path:
    """Finds one thing in the upper left quarter of whatever it gets, whose mask is the left half of that."""
    rows, maps = np.array([[[0, 0, 8, 8, 0.9, 0, 1]]], np.float32), np.full((1, 1, 16, 16), -1, np.float32)
    maps[..., :4] = 1
    return packed(
        folder, "things", _constant(rows=rows, maps=maps), "--labels", "thing", "--preprocess", SIXTEEN, "--boxes",
        "{layout: final, rows: rows, coefficients: 1, prototypes: maps}",
    )  # fmt: skip


def halves(folder: Path) -> Path:
    """The left half of whatever it gets is something."""
    maps = np.full((1, 2, 16, 16), 0, np.float32)
    maps[:, 1, :, :8], maps[:, 1, :, 8:] = 1, -1
    return packed(folder, "halves", _constant(maps=maps), "--labels", "background,left", "--preprocess", SIXTEEN)


SIXTEEN = "[{step: colour}, {step: resize, height: 16, width: 16}]"


def _constant(**outputs: np.ndarray) -> bytes:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0), helper.make_node("Mul", ["m", "zero"], ["z"]),
        *(helper.make_node("Add", [f"{name}_", "z"], [name]) for name in outputs),
    ]  # fmt: skip
    constants = {f"{name}_": values for name, values in outputs.items()}
    made = [(name, F, list(values.shape)) for name, values in outputs.items()]
    return onnx_file(nodes, [("x", F, [1, 16, 16, 3])], made, zero=np.array(0, np.float32), **constants)


@pytest.mark.parametrize("make", [things, halves])
def test_masks_of_crops_are_masks_in_the_picture(make: Callable[[Path], Path], bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = f'[[chain]]\nmodel = "{make.__name__}"\nlabels = ["blue"]\n'
    with serving(tmp_path, WATCH + text, bundles["squares"], make(tmp_path)) as agent:
        (frame,) = passing()[:1]
        put(tmp_path / "in", [frame], "a")
        (line,) = eventually(lambda: agent.lines)
    (asked,) = [box for box in line["boxes"] if "then" in box]
    x, y = asked["box"][:2]
    part = asked["then"][make.__name__]
    (found,) = part["boxes"] if make is things else part["masks"]
    assert found["mask"]["size"] == list(frame.shape[:2])
    rows, columns = np.nonzero(RunLengths(**found["mask"]).pixels())
    wide, high = (SIDE / 4, SIDE / 2) if make is things else (SIDE / 2, SIDE)
    assert np.allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x, y, x + wide, y + high], atol=2)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {"squares": detector(folder), "colour": colour(folder), "corner": corner(folder)}


def test_each_box_is_answered_by_the_next_model(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = WATCH + COLOUR + TRACKING.replace("[runtime]\nthreads = 1\n", "")
    with serving(tmp_path, text.replace('variant = "tflite-int8"', ""), bundles["squares"], bundles["colour"]) as agent:
        frames = passing()[:6]
        put(tmp_path / "in", frames, "a")
        lines = eventually(lambda: len(agent.lines) == len(frames) and agent.lines)
        assert sum(len(line["boxes"]) for line in lines) >= 2 * len(frames) - 2
        for line in lines:
            assert all(box["then"]["colour"]["label"] == box["label"] and "track" in box for box in line["boxes"])
            assert line["parts"].keys() == {"squares", "colour"} and line["parts"]["squares"] == line["milliseconds"]


def test_a_chain_of_three_answers_in_pixels_of_the_picture(bundles: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    text = '[[chain]]\nmodel = "corner"\nlabels = ["blue"]\nmost = 1\n[[chain]]\nboxes_of = "corner"\nmodel = "colour"\n'
    with serving(tmp_path, WATCH + text, *bundles.values()) as agent:
        put(tmp_path / "in", passing()[:1], "a")
        (line,) = eventually(lambda: agent.lines)
        asked = [box for box in line["boxes"] if "then" in box]
        assert [box["label"] for box in asked] == ["blue"] and line["parts"].keys() == {"squares", "corner", "colour"}
        (inner,) = asked[0]["then"]["corner"]["boxes"]
        x, y = asked[0]["box"][:2]
        assert np.allclose(inner["box"], [x, y, x + SIDE / 2, y + SIDE / 2], atol=2)
        assert inner["then"]["colour"]["label"] == "blue"


REFUSED = {
    "a model that is not there": (
        '[[chain]]\nmodel = "colours"\n',
        "no bundle of the config is 'colours'; did you mean colour?",
    ),
    "boxes of a classifier": ('[[chain]]\nboxes_of = "colour"\nmodel = "corner"\n', "colour answers no boxes"),
    "nobody asks it": ('[[chain]]\nboxes_of = "corner"\nmodel = "colour"\n', "no chain before this one asks corner"),
    "a circle": ('[[chain]]\nmodel = "squares"\n', "squares is asked already"),
    "a label": ('[[chain]]\nmodel = "colour"\nlabels = ["green"]\n', "squares has no label 'green'"),
    "a model of motion": ('[[chain]]\nmodel = "exercise_watch"\n', "exercise_watch answers no crops"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_chains_that_cannot_work_are_refused(name: str, bundles: dict[str, Path], tmp_path: Path) -> None:
    text, says = REFUSED[name]
    config = write_config(tmp_path, "[runtime]\nthreads = 1\n" + text, *bundles.values(), GOLDEN)
    assert says in sentence(command("edgeloop-agent", "check", config), 2)
