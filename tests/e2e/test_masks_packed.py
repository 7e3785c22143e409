"""Segmentation models that somebody else made answer masks on the device; what cannot be read is one sentence."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from bundles import onnx_file
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.masks import mask_of
from edgeloop_contract.tasks import Segmentation

F = TensorProto.FLOAT
STEPS = "[{step: colour}, {step: letterbox, height: 32, width: 64}]"


def segmenter(path: Path, last: str = "", aside: bool = False, metadata: dict[str, str] | None = None) -> Path:
    """Bright red is `thing`, on a grid of a quarter of the sample's sides. `last`: an operation at the end. `aside`: a second output."""
    w = np.zeros((3, 3, 4, 4), np.float32)
    w[1, 0] = 1 / 16
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["c"], kernel_shape=[4, 4], strides=[4, 4])]
    outputs, final = [], [3, 8, 16]
    if last.startswith("Map"):  # of `thing` alone, about the middle of its logits
        nodes.append(helper.make_node("Slice", ["c", "one", "two", "channel"], ["t"]))
        nodes.append(helper.make_node("Sub", ["t", "middle"], ["m"]))
        form = last.partition(" ")[2] or "Identity"
        nodes.append(helper.make_node(form, ["m"], ["out"], **({"perm": [0, 2, 3, 1]} if form == "Transpose" else {})))
        final = [8, 16, 1] if form == "Transpose" else [1, 8, 16]
    elif last == "Transpose":
        nodes.append(helper.make_node("Transpose", ["c"], ["out"], perm=[0, 2, 3, 1]))
        final = [8, 16, 3]
    elif last == "ArgMax":
        nodes.append(helper.make_node("ArgMax", ["c"], ["out"], axis=1, keepdims=0))
        final = [8, 16]
    else:
        nodes.append(helper.make_node(last or "Identity", ["c"], ["out"], **({"axis": 1} if last == "Softmax" else {})))
    outputs.append(("out", TensorProto.INT64 if last == "ArgMax" else F, [1, *final]))
    if aside:
        nodes.append(helper.make_node("Neg", ["c"], ["aux"]))
        outputs.insert(0, ("aux", F, [1, 3, 8, 16]))
    more = {
        name: np.array([value], np.float32 if name == "middle" else np.int64)
        for name, value in (("one", 1), ("two", 2), ("channel", 1), ("middle", 100)) if last.startswith("Map")
    }  # fmt: skip
    content = onnx_file(nodes, [("image", F, [1, 3, 32, 64])], outputs, w=w, b=np.array([100.0, 0.0, -50.0], np.float32), **more)
    if metadata:
        import onnx

        model = onnx.load_from_string(content)
        helper.set_model_props(model, metadata)
        content = model.SerializeToString()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("aside", [False, True])
def test_masks_are_in_pixels_of_the_picture(aside: bool, tmp_path: Path) -> None:
    from PIL import Image

    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:32, 8:40, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    model = segmenter(tmp_path / "m.onnx", aside=aside)
    more = ["--output", "out", "--task", "segmentation"] if aside else []
    args = ["--labels", "background,thing,other", "--preprocess", STEPS, *more]
    done = edgeloop_here("pack", model, "--out", tmp_path / "m.edgeloop", *args)
    assert done.returncode == 0, done.stderr
    assert "masks of all labels but background" in done.stdout
    with Bundle.open(tmp_path / "m.edgeloop") as bundle:
        task = bundle.manifest.task
    assert isinstance(task, Segmentation) and (task.height, task.width, task.background) == (8, 16, "background")
    run = command("edgeloop-agent", "run", tmp_path / "m.edgeloop", "--source", tmp_path / "a.png", "--state", tmp_path / "s")
    assert run.returncode == 0, run.stderr
    (mask,) = json.loads(run.stdout)["masks"]
    assert mask["label"] == "thing" and mask["mask"]["size"] == [64, 64]
    np.testing.assert_array_equal(mask_of(mask["mask"]["counts"], 64, 64), picture[..., 0] > 0)


FORMS = {
    "labels last": ({"last": "Transpose"}, "background,thing,other", [], ("last", "logits", False)),
    "probabilities": ({"last": "Softmax"}, "background,thing,other", [], ("first", "probabilities", False)),
    "numbers": ({"last": "ArgMax"}, "background,thing,other", [], ("first", "numbers", False)),
    "one map": ({"last": "Map"}, "thing", [], ("first", "logits", True)),
    "one map of probabilities": ({"last": "Map Sigmoid"}, "thing", [], ("first", "probabilities", True)),
    "one map, its channel last, said": ({"last": "Map Transpose"}, "thing", ["--scores", "logits"], ("last", "logits", True)),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_give_the_same_masks(name: str, tmp_path: Path) -> None:
    from PIL import Image

    kind, labels, more, wanted = FORMS[name]
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:32, 8:40, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    model = segmenter(tmp_path / "m.onnx", **kind)  # type: ignore[arg-type]
    done = edgeloop_here("pack", model, "--out", tmp_path / "m.edgeloop", "--labels", labels, "--preprocess", STEPS, *more)
    assert done.returncode == 0, done.stderr
    with Bundle.open(tmp_path / "m.edgeloop") as bundle:
        task = bundle.manifest.task
    assert isinstance(task, Segmentation) and (task.channels, task.scores, task.single) == wanted
    assert (task.height, task.width, task.background) == (8, 16, "background")
    run = command("edgeloop-agent", "run", tmp_path / "m.edgeloop", "--source", tmp_path / "a.png", "--state", tmp_path / "s")
    assert run.returncode == 0, run.stderr
    (mask,) = json.loads(run.stdout)["masks"]
    assert mask["label"] == "thing" and mask["confidence"] > 0.9
    np.testing.assert_array_equal(mask_of(mask["mask"]["counts"], 64, 64), picture[..., 0] > 0)


REFUSED = {
    "numbers of one label": ({"last": "ArgMax"}, ["--labels", "a", "--task", "segmentation"], "or of labels' numbers, is needed"),
    "another count": ({}, ["--labels", "a,b", "--task", "segmentation"], r"an output of \(2, height, width\) scores, or"),
    "no labels": ({}, ["--task", "segmentation"], "0 labels; pixels need 1 to 255"),
    "two outputs": ({"aside": True}, ["--labels", "a,b,c", "--task", "segmentation"], "Say --output"),
    "a pose": (
        {"last": "ArgMax", "metadata": {"task": "pose", "names": "{0: 'person'}"}},
        [],
        "points of boxes, .* say --boxes, .* --task tensors",
    ),
    "single things": ({"metadata": {"task": "segment", "names": "{0: 'person'}"}}, [], "masks of single things, .* --task tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_sentence(name: str, tmp_path: Path) -> None:
    kind, args, wanted = REFUSED[name]
    model = segmenter(tmp_path / "m.onnx", **kind)  # type: ignore[arg-type]
    done = edgeloop_here("pack", model, "--out", tmp_path / "m.edgeloop", "--preprocess", STEPS, *args)
    assert re.search(wanted, sentence(done, 2)), done.stderr
    assert not (tmp_path / "m.edgeloop").exists()
