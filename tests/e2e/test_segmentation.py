"""Masks through the front door: pictures with masks to a bundle, and the agent's answers in pixels of the pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

import edgeloop
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.canary_consistency import canary_problems
from edgeloop_contract.consistency import problems
from edgeloop_contract.errors import GateError
from edgeloop_contract.preprocessing import Transpose
from masked import NAMES, masked, project
from serving import serving


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, dict[str, np.ndarray], Path]:
    """The run's summary, the bundle, and new pictures: their masks by name, and their folder."""
    root = tmp_path_factory.mktemp("masks")
    done = edgeloop_here("run", project(root, 60), "--runs", root / "runs", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found, Path(found["bundle"]), masked(root / "new", 8, seed=9), root / "new" / "images"


def overlap(answers: list[edgeloop.Mask], truth: np.ndarray) -> float:
    """The mean IoU of the shapes' labels that are there or answered."""
    found = {mask.label: mask.pixels() for mask in answers}
    assert all(pixels.shape == truth.shape for pixels in found.values()) and "background" not in found
    ious = []
    for number, name in enumerate(NAMES[1:], start=1):
        mine, theirs = found.get(name, np.zeros(truth.shape, bool)), truth == number
        if mine.any() or theirs.any():
            ious.append((mine & theirs).sum() / (mine | theirs).sum())
    return float(np.mean(ious))


def test_the_run_judges_both_int8_files_by_mean_iou(built: tuple) -> None:
    found, bundle, _, _ = built
    verified = next(s["metrics"] for s in found["stages"] if s["name"] == "verify")
    assert verified["metric"] == "mean IoU" and [row["label"] for row in verified["masks"]["labels"]] == list(NAMES)
    assert verified["masks"]["dice"] > 0.85 and 0 < verified["chance"] < 0.5
    assert sum(row["share"] for row in verified["masks"]["labels"]) == pytest.approx(1)
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    assert {variant.name for variant in manifest.variants} == {"onnx-int8", "tflite-int8"}
    assert manifest.schema == 3 and "task segmentation" in manifest.requires
    assert (manifest.task.height, manifest.task.width, manifest.task.background) == (48, 64, "background")
    assert "Gives each pixel one of the labels background, disc, square" in manifest.model_card
    assert {"share of disc", "confidence of square"} <= set(manifest.drift.features)
    page = Path(found["report"]).read_text()
    assert "<h2>Masks</h2>" in page and page.count("data:image/jpeg") == 4


@pytest.mark.parametrize("variant", ["onnx-int8", "tflite-int8"])
def test_masks_are_in_pixels_of_the_picture_that_was_given(built: tuple, variant: str, tmp_path: Path) -> None:
    """Pictures have twice the sample's sides; one has six times its width."""
    model = edgeloop.open(built[1], variant=variant, state=tmp_path)
    answers = {name: model(built[3] / name) for name in built[2]}
    assert np.mean([overlap(answers[name].masks, truth) for name, truth in built[2].items()]) > 0.75
    name, truth = next(iter(built[2].items()))
    with Image.open(built[3] / name) as picture:
        wide = np.asarray(picture.resize((3 * picture.width, picture.height)))
    assert overlap(model(wide).masks, np.repeat(truth, 3, axis=1)) > 0.7
    first = answers[name].masks[0]
    assert first.share == pytest.approx(first.pixels().mean(), abs=1e-4) and 0.4 < first.confidence <= 1
    assert answers[name].label is None and answers[name].boxes is None and answers[name].milliseconds > 0


def test_the_agent_answers_lines_of_masks(built: tuple, tmp_path: Path) -> None:
    done = command("edgeloop-agent", "run", built[1], "--source", built[3], "--state", tmp_path)
    assert "Traceback" not in done.stderr, done.stderr
    lines = {row["input"].rsplit("/", 1)[-1]: row for row in map(json.loads, done.stdout.splitlines())}
    assert lines.keys() == built[2].keys()
    for name, truth in built[2].items():
        for mask in lines[name]["masks"]:
            assert set(mask) == {"label", "share", "confidence", "mask"} and mask["mask"]["size"] == list(truth.shape)
            assert sum(mask["mask"]["counts"]) == truth.size


def test_a_device_s_canary_counts_pixels(built: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloop_agent.updates import canary

    (tmp_path / "agent.toml").write_text(f'bundles = ["{built[1]}"]\nstate = "{tmp_path / "state"}"\n[source]\nkind = "none"\n')
    outcome = canary.check(tmp_path / "agent.toml", built[1])
    assert outcome.samples == 4 and 0.8 * 4 * 48 * 64 < outcome.right <= 4 * 48 * 64
    with Bundle.open(built[1]) as bundle:
        task, golden, labels = (
            bundle.manifest.task,
            bundle.array(bundle.manifest.canary.scores.file),
            bundle.array("canary/labels.npy"),
        )
    spoiled = [{"": np.roll(row.reshape(3, 48, 64), 12, axis=1)} for row in golden]
    with pytest.raises(GateError, match="labelled pixels right here"):
        canary._count_pixels(task, spoiled, golden, labels)


def test_the_local_api_answers_masks_where_they_are_asked_for(built: tuple, tmp_path: Path) -> None:
    """In pixels of the sample; raw logits as before."""
    with Image.open(next(built[3].iterdir())) as picture:
        sample = np.asarray(picture.resize((64, 48)))
    tensor = {"name": "input", "shape": [1, 48, 64, 3], "datatype": "UINT8", "data": sample.ravel().tolist()}
    with serving(tmp_path, "[runtime]\nthreads = 1\n", built[1]) as agent:
        for asked in (False, True):
            body = json.dumps({"inputs": [tensor], **({"parameters": {"masks": True}} if asked else {})}).encode()
            answer = json.load(urlopen(Request(f"{agent.address}/v2/models/shapes/infer", body)))
            assert answer["outputs"][0]["shape"] == [1, 3, 48, 64] and ("masks" in answer.get("parameters", {})) == asked
    (masks,) = answer["parameters"]["masks"]
    assert masks and all(mask["mask"]["size"] == [48, 64] for mask in masks)


def test_a_bundle_whose_grid_or_labels_do_not_fit_is_refused(built: tuple) -> None:
    with Bundle.open(built[1]) as bundle:
        manifest, labels = bundle.manifest, bundle.array("canary/labels.npy")
        arrays = {name: bundle.array(name) for name in manifest.files if name.endswith(".npy")}
    coarse = replace(manifest, task=replace(manifest.task, height=24))
    assert any("answers 9216 scores for 4608 labels of cells" in why for why in problems(coarse))
    turned = replace(manifest, inputs=[replace(manifest.inputs[0], preprocessing=[Transpose(axes=[1, 0, 2])])])
    assert any("cannot follow" in why for why in problems(turned))
    assert not problems(manifest) and not canary_problems(manifest, arrays.__getitem__)
    for spoiled in (labels + 3, labels[:2], labels[:, 0]):
        (why,) = canary_problems(manifest, {**arrays, "canary/labels.npy": spoiled}.__getitem__)
        assert "4 masks of the numbers of 3 labels are needed" in why


def other_size(root: Path) -> None:
    with Image.open(root / "data" / "masks" / "p003.png") as mask:
        mask.resize((64, 48)).save(root / "data" / "masks" / "p003.png")


def another_number(root: Path) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[5, 5] = 7
    Image.fromarray(mask).save(root / "data" / "masks" / "p003.png")


def white(root: Path) -> None:
    for path in (root / "data" / "masks").iterdir():
        with Image.open(path) as mask:
            pixels = np.asarray(mask)
        Image.fromarray(np.where(pixels > 0, 255, 0).astype(np.uint8)).save(path)


def in_colours(root: Path) -> None:
    shutil.copy(root / "data" / "images" / "p003.png", root / "data" / "masks" / "p003.png")


def lossy(root: Path) -> None:
    path = root / "data" / "masks" / "p003.png"
    with Image.open(path) as mask:
        mask.save(path.with_suffix(".jpg"))


def truncated(root: Path) -> None:
    path = root / "data" / "masks" / "p003.png"
    path.write_bytes(path.read_bytes()[:60])


def without(root: Path) -> None:
    (root / "data" / "masks" / "p003.png").unlink()


def nothing(root: Path) -> None:
    pass


REFUSED = {
    "a mask of another size": (other_size, "", 3, "p003.png): its mask has 48 × 64 pixels, the picture 96 × 128"),
    "a number without a label": (another_number, "", 3, "p003.png: the value 7; masks of numbers have 0 to 2"),
    "0 and 255 read as numbers": (white, "", 3, "train: no pixel of disc, square"),
    "a mask in colours": (in_colours, "", 3, "p003.png: a mask of the kind RGB"),
    "a lossy mask": (lossy, "", 3, "p003.jpg: a mask must be a file that keeps numbers"),
    "a truncated mask": (truncated, "", 3, "p003.png: cannot be read as a mask"),
    "a picture without a mask": (without, "", 3, "pictures without a mask: p003.png"),
    "mixup": (nothing, "--set=train.mixup=0.2", 4, "mixup: does not suit segmentation"),
    "a step that loses the places": (
        nothing, "--set=preprocessing=[{step: colour}, {step: transpose, axes: [1, 0, 2]}]", 3, "cannot follow",
    ),
    "a size that is no multiple": (
        nothing, "--set=preprocessing=[{step: colour}, {step: resize, height: 49, width: 64}]", 4, "must be multiples of 2",
    ),
    "another network": (nothing, "--set=network=other.py:network", 4, "return logits (1, 3, h, w), whose h and w are 48 and 64"),
}  # fmt: skip
OTHER = """
from torch import nn

def network(shape, outputs, **_):
    return nn.Conv2d(shape[0], outputs, 3)
"""


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_suit_is_one_sentence(name: str, tmp_path: Path) -> None:
    spoil, change, code, why = REFUSED[name]
    folder = project(tmp_path, 12)
    (folder / "other.py").write_text(OTHER)
    spoil(tmp_path)
    done = edgeloop_here("run", folder, "--runs", tmp_path / "runs", "--set=train.epochs=1", *([change] if change else []))
    assert why in sentence(done, code)
