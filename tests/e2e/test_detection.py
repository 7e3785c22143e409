"""Boxes through the front door: annotated pictures to a project, a bundle, and the agent's answers in pixels of the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeloop
from annotated import HEIGHT, LABELS, WIDTH, Shape, coco, pictures, voc
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes import Distances, iou_matrix

FEW = (
    "--set=train.epochs=24", "--set=network_args={width: small}", "--set=profile.seconds=0.01", "--set=verify.layer_samples=2",
    "--set=verify.canary_samples=4", "--set=target={max_int8_drop: 0.05}", "--set=train.precision=float32",
    "--set=train.workers=0", "--set=export.float32=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, Path]:
    """The run's summary, the bundle, and a folder of new pictures."""
    root = tmp_path_factory.mktemp("boxes")
    coco(root / "data", 72)
    made = edgeloop_here("new", root / "mine", "--data", root / "data")
    assert made.returncode == 0 and "boxes as COCO JSON" in made.stdout, made.stderr
    with Image.open(root / "mine" / "boxes.jpg") as sheet:
        assert sheet.size[0] > 1000 and "boxes.jpg" in made.stdout
    done = edgeloop_here("run", root / "mine", "--runs", root / "runs", "--json", *FEW)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found, Path(found["bundle"]), root


def matched(answers: list[edgeloop.Box], shapes: list[Shape]) -> int:
    """Shapes that a box of their label overlaps by half or more."""
    if not answers:
        return 0
    overlap = iou_matrix(np.array([a.box for a in answers]), np.array([s[1:] for s in shapes], float))
    return sum(
        any(overlap[i, j] >= 0.5 and answer.label == shape.label for i, answer in enumerate(answers))
        for j, shape in enumerate(shapes)
    )


@pytest.mark.long
def test_the_run_judges_both_int8_files_by_map(built: tuple[dict, Path, Path]) -> None:
    found, bundle, _ = built
    verified = next(s["metrics"] for s in found["stages"] if s["name"] == "verify")
    assert verified["metric"] == "mAP" and {row["label"] for row in verified["boxes"]["labels"]} == set(LABELS)
    assert verified["boxes"]["map_half"] > 0.8 and 0 < verified["boxes"]["threshold"] < 1
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    assert {variant.name for variant in manifest.variants} >= {"onnx-int8", "tflite-int8"}
    assert manifest.schema == 3 and "task detection" in manifest.requires
    assert isinstance(manifest.task.decode, Distances) and manifest.task.decode.strides == [8, 16]
    assert "Finds disc, square and answers boxes" in manifest.model_card and manifest.drift is not None


@pytest.mark.long
@pytest.mark.parametrize("variant", ["onnx-int8", "tflite-int8"])
def test_boxes_are_in_pixels_of_the_picture_that_was_given(built: tuple[dict, Path, Path], variant: str, tmp_path: Path) -> None:
    """Also of one that is larger than the sample, and of one that EXIF turns."""
    model = edgeloop.open(built[1], variant=variant, state=tmp_path)
    found = pictures(tmp_path / "new", 12, seed=9)
    right = sum(matched(model(tmp_path / "new" / name).boxes or [], shapes) for name, shapes in found.items())
    total = sum(map(len, found.values()))
    assert right >= 0.8 * total
    name, shapes = next((n, s) for n, s in found.items() if matched(model(tmp_path / "new" / n).boxes or [], s) == len(s))
    with Image.open(tmp_path / "new" / name) as picture:
        large = picture.resize((3 * WIDTH, 2 * HEIGHT))
    answer = model(np.asarray(large))
    assert matched(answer.boxes or [], [Shape(s.label, 3 * s.x1, 2 * s.y1, 3 * s.x2, 2 * s.y2) for s in shapes]) == len(shapes)
    exif = Image.Exif()
    exif[274] = 3  # upside down
    large.save(tmp_path / "turned.png", exif=exif)
    turned = [Shape(s.label, 3 * (WIDTH - s.x2), 2 * (HEIGHT - s.y2), 3 * (WIDTH - s.x1), 2 * (HEIGHT - s.y1)) for s in shapes]
    assert matched(model(tmp_path / "turned.png").boxes or [], turned) == len(shapes)
    assert answer.label is None and answer.tensors is None and answer.milliseconds > 0


@pytest.mark.long
def test_the_agent_answers_lines_of_boxes(built: tuple[dict, Path, Path], tmp_path: Path) -> None:
    found = pictures(tmp_path / "new", 6, seed=11)
    (tmp_path / "new" / "spoiled.png").write_bytes((tmp_path / "new" / "p000.png").read_bytes()[:9000])
    done = command("edgeloop-agent", "run", built[1], "--source", tmp_path / "new", "--state", tmp_path / "state")
    assert "Traceback" not in done.stderr, done.stderr
    lines = {row["input"].rsplit("/", 1)[-1]: row for row in map(json.loads, done.stdout.splitlines())}
    right = sum(matched([edgeloop.Box(**b) for b in lines[name]["boxes"]], shapes) for name, shapes in found.items())
    assert right >= 0.7 * sum(map(len, found.values()))
    box = next(b for name in found for b in lines[name]["boxes"])
    assert set(box) == {"label", "score", "box"} and len(box["box"]) == 4 and 0 < box["score"] <= 1
    assert "refused" in lines["spoiled.png"] and "boxes" not in lines["spoiled.png"]


@pytest.mark.long
def test_a_device_s_canary_counts_boxes(built: tuple[dict, Path, Path], tmp_path: Path) -> None:
    from edgeloop_agent.updates import canary

    (tmp_path / "agent.toml").write_text(f'bundles = ["{built[1]}"]\nstate = "{tmp_path / "state"}"\n[source]\nkind = "none"\n')
    outcome = canary.check(tmp_path / "agent.toml", built[1])
    assert outcome.samples == 4 and outcome.right > 0


REFUSED = {
    "mixup": ("--set=train.mixup=0.2", 4, "mixup: does not suit detection"),
    "label smoothing": ("--set=train.label_smoothing=0.1", 4, "label_smoothing: is for classes"),
    "a step that loses the places": (
        "--set=preprocessing=[{step: colour}, {step: transpose, axes: [1, 0, 2]}]",
        3,
        "boxes cannot follow",
    ),
    "a width that is none": ("--set=network_args={width: huge}", 4, "width 'huge'; there is small, medium, large"),
    "a size that is no multiple": (
        "--set=preprocessing=[{step: colour}, {step: resize, height: 90, width: 128}]",
        4,
        "multiples of 16",
    ),
    "another network": ("--set=network=other.py:network", 4, "return {'boxes': (1, cells, 4), 'scores': (1, cells, 2)}"),
}
OTHER = """
from torch import nn

class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3, 7)

    def forward(self, x):
        made = self.layer(x)
        return {"boxes": made[:, :4], "scores": made[:, 4:]}

def network(shape, outputs, **_):
    return Wrong()
"""


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_suit_is_one_sentence(name: str, tmp_path: Path) -> None:
    change, code, why = REFUSED[name]
    voc(tmp_path / "data")
    assert edgeloop_here("new", tmp_path / "mine", "--data", tmp_path / "data").returncode == 0
    (tmp_path / "mine" / "other.py").write_text(OTHER)
    done = edgeloop_here("run", tmp_path / "mine", "--runs", tmp_path / "runs", "--set=train.epochs=1", change)
    assert why in sentence(done, code)


def test_a_truncated_picture_is_named(tmp_path: Path) -> None:
    voc(tmp_path / "data")
    file = tmp_path / "data" / "JPEGImages" / "p005.png"
    with Image.open(file) as picture:
        picture.save(file.with_suffix(".jpg"))
    file.unlink()
    whole = file.with_suffix(".jpg").read_bytes()
    file.with_suffix(".jpg").write_bytes(whole[: len(whole) // 2])
    said = sentence(edgeloop_here("new", tmp_path / "mine", "--data", tmp_path / "data"), 3)
    assert "p005.jpg" in said and "repair or remove it" in said and not (tmp_path / "mine").exists()
