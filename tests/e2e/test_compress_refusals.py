"""What `edgeloop compress` is asked and cannot do: one sentence at the start, and nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_compress import classifier, pictures  # noqa: F401 (a fixture)

from bundles import F, onnx_file
from commands import edgeloop_here, sentence
from edgeloop_agent.box_answers import box_answers
from edgeloop_contract.boxes import Final, Rows, placement
from edgeloop_contract.preprocessing import Letterbox
from edgeloop_contract.tasks import Detection
from edgeloop_exporters.model_files.detectors import labels_of
from edgeloop_pipeline.importing.project_files import _yaml

X = ("x", F, ["batch", 3, 8, 8])


def flat(*more: object, outputs: list[tuple], **constants: np.ndarray) -> bytes:
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"]), *more]
    return onnx_file(nodes, [X], outputs, **constants)  # type: ignore[list-item]


Y = ("y", F, ["batch", 3])
CASES = {
    "a floor that is no number": (classifier(), ["--min-agreement", "nan"], "no number that can be reached"),
    "a ceiling that is no number": (classifier(), ["--max-latency-us", "nan"], "no number that can be reached"),
    "a name with a slash": (classifier(), ["--name", "a b/../c"], "--name a b/../c: use letters"),
    "two numbers for three channels": (classifier(), ["--normalize", "1,2/3,4"], "2 values for 3 channels"),
    "one tensor twice": (
        flat(helper.make_node("Identity", ["y"], ["z"]), outputs=[Y, ("z", F, ["batch", 3])]), [],
        "its output z is the same tensor as y",
    ),
    "the input as output": (flat(outputs=[Y, X]), [], "its output x is the input itself"),
    "whole numbers alone": (
        flat(helper.make_node("ArgMax", ["y"], ["z"], axis=1), outputs=[("z", TensorProto.INT64, ["batch", 1])]), [],
        "gives whole numbers alone",
    ),
    "truths alone": (
        flat(helper.make_node("Greater", ["y", "c"], ["z"]), outputs=[("z", TensorProto.BOOL, ["batch", 3])],
             c=np.array(0.1, np.float32)), [],
        "gives whole numbers alone",
    ),
    "weights that are no numbers": (
        flat(helper.make_node("Mul", ["y", "c"], ["z"]), outputs=[("z", F, ["batch", 3])], c=np.full(3, np.nan, np.float32)), [],
        "its constant c has values that are no numbers",
    ),
    "an output that is a constant": (
        flat(helper.make_node("Identity", ["c"], ["z"]), outputs=[Y, ("z", F, [1, 3])], c=np.ones((1, 3), np.float32)), [],
        "its output z is the same for every sample; leave it out",
    ),
    "a sample of 30 thousand million": (
        onnx_file([helper.make_node("Relu", ["x"], ["y"])], [("x", F, [1, 3, 100_000, 100_000])],
                  [("y", F, [1, 3, 100_000, 100_000])]), [],
        "has 30,000,000,000 values; at most",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_said_at_the_start(name: str, pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    content, more, expected = CASES[name]
    (tmp_path / "net.onnx").write_bytes(content)
    given = [] if "--normalize" in more else ["--normalize", "unit"]
    done = edgeloop_here("compress", tmp_path / "net.onnx", "--calibrate", pictures, "--out", tmp_path / "o", *given, *more)
    assert expected in sentence(done, done.returncode) and done.returncode, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert f"/.{'o'}-" not in done.stderr  # no path of a folder that is gone


def test_outputs_that_nobody_asked_for_need_not_be_understood(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    """A constant, and boxes that an operator chooses by their values; with a second input that only those need."""
    content = flat(
        helper.make_node("Identity", ["c"], ["z"]), helper.make_node("NonZero", ["second"], ["chosen"]),
        outputs=[("z", F, [1, 3]), Y, ("chosen", TensorProto.INT64, [2, "count"])], c=np.ones((1, 3), np.float32),
    )  # fmt: skip
    model = onnx.load_from_string(content)
    model.graph.input.append(helper.make_tensor_value_info("second", F, ["batch", 4]))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    done = edgeloop_here(
        "compress", tmp_path / "net.onnx", "--calibrate", pictures, "--out", tmp_path / "o", "--normalize", "unit", "--output", "y",
        "--prepare-only",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kept = onnx.load(tmp_path / "o" / "model.onnx").graph
    assert [o.name for o in kept.output] == ["y"] and [i.name for i in kept.input] == ["x"] and len(kept.node) == 2


def test_broken_pictures_are_named_together(pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "net.onnx").write_bytes(classifier())
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    broken = sorted(path for path in folder.rglob("*") if path.is_file())[:5:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    done = edgeloop_here(
        "compress", tmp_path / "net.onnx", "--calibrate", folder, "--out", tmp_path / "o", "--normalize", "unit"
    )  # fmt: skip
    assert done.returncode == 3 and done.stderr.startswith("edgeloop: 3 recordings cannot be read:\n")
    assert all(path.name in done.stderr for path in broken) and not (tmp_path / "o").exists()


def test_boxes_without_area_in_the_picture_are_left_out() -> None:
    """They lie in the border of the letterbox."""
    task = Detection(labels=["a"], decode=Final())
    rows = np.array([[0, 0, 64, 10, 0.9, 0], [10, 20, 30, 40, 0.8, 0]], np.float32)
    place = placement([Letterbox(height=64, width=64)], 32, 64)
    assert len(box_answers(task, {"": rows[None]}, 64, 64, place)) == 1


def test_labels_of_a_layout_and_names_with_commas() -> None:
    assert labels_of(Rows(channels="first"), {"o": (6, 84)}) == 2 and labels_of(Rows(objectness=True), {"o": (6, 84)}) == 79
    assert labels_of(Final(), {"o": (100, 6)}) is None
    assert _yaml({"output": 'a,b":c'}) == '{"output": "a,b\\":c"}'
