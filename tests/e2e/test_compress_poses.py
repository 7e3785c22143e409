"""Somebody's poses without boxes through `edgeloop compress`: int8 is judged by the points, and the bundle answers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_compress import compressed
from torch import Tensor, nn

import edgeloop
from commands import edgeloop_here, sentence
from constant_models import answering
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes import PointAxes, PointMaps
from edgeloop_contract.tasks import Keypoints
from edgeloop_exporters.quiet import quiet

SIDE, COLOURS = 64, ((230, 30, 30), (30, 230, 30), (30, 30, 230))
NAMES = ("red", "green", "blue")


class Spots(nn.Module):
    """Where a red, a green and a blue square are: a map for each, or scores along both axes."""

    def __init__(self, axes: bool) -> None:
        super().__init__()
        self.axes = axes
        self.stem = nn.Conv2d(3, 3, 1)
        self.blur = nn.Conv2d(3, 3, 9, stride=4, padding=4, groups=3, bias=False)
        with torch.no_grad():
            self.stem.weight.copy_((torch.eye(3) * 3 - 1.5).reshape(3, 3, 1, 1))
            self.stem.bias.fill_(-0.3)  # type: ignore[union-attr]
            self.blur.weight.copy_(torch.outer(*[torch.hann_window(11)[1:-1]] * 2).expand(3, 1, 9, 9) / 20)
        self.along = nn.Linear(SIDE // 4, SIDE * 2)
        with torch.no_grad():  # from a cell to its two pixels' places
            near = torch.arange(SIDE * 2)[:, None] / 8 - torch.arange(SIDE // 4)[None]
            self.along.weight.copy_((1 - near.abs()).clamp_min(0))
            self.along.bias.zero_()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        maps = self.blur(self.stem(images).relu())
        if not self.axes:
            return maps
        return self.along(maps.amax(2)), self.along(maps.amax(3))


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty grey pictures with one square of each colour."""
    folder = tmp_path_factory.mktemp("spots")
    for number in range(40):
        Image.fromarray(spotted(number)[0]).save(folder / f"{number:02}.png")
    return folder


def spotted(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (64, 96, 3), and the middles (3, 2) of its squares."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(90, 130, (SIDE, 96, 3)).astype(np.uint8)
    columns = rng.permutation(3)
    corners = np.stack([columns * 32 + rng.integers(2, 18, 3), rng.integers(2, 50, 3)], 1)
    for (x, y), colour in zip(corners, COLOURS, strict=True):
        picture[y : y + 12, x : x + 12] = colour
    return picture, corners + 6


def export(path: Path, axes: bool, names: tuple[str, ...]) -> Path:
    with quiet():
        torch.onnx.export(
            Spots(axes).eval(), (torch.rand(2, 3, SIDE, SIDE),), str(path), dynamo=True, input_names=["images"],
            output_names=list(names), dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
        )  # fmt: skip
    return path


WORDS = ("--normalize", "unit", "--fit", "letterbox", "--labels", "spots", "--points", ",".join(NAMES))


def check(path: Path, layout: type) -> None:
    """Both int8 files find the middles of the squares, in pixels of pictures in a letterbox."""
    with Bundle.open(path) as bundle:
        task = bundle.manifest.task
        assert isinstance(task, Keypoints) and isinstance(task.decode, layout) and task.points == list(NAMES)
        assert bundle.manifest.drift is not None and "log boxes" in bundle.manifest.drift.features
    for variant in ("onnx-int8", "tflite-int8"):
        model, offs = edgeloop.open(path, variant=variant), []
        for seed in range(100, 106):
            picture, middles = spotted(seed)
            answer = model(picture)
            assert answer.boxes is not None and len(answer.boxes) == 1 and answer.boxes[0].label == "spots"
            offs.append(np.array([point.point for point in answer.boxes[0].points or []]) - middles)
        assert np.abs(offs).max() < 6 and np.abs(np.mean(offs)) < 3  # a cell is 6 pixels of the picture


@pytest.mark.long
def test_maps_of_points_are_kept_in_both_runtimes(spots: Path, tmp_path: Path) -> None:
    found, said = compressed(export(tmp_path / "maps.onnx", False, ("heatmaps",)), spots, tmp_path / "small", *WORDS)
    assert "holds a map of scores for each of 3 points, a cell for 4 pixels" in said and "with points at the same places" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert stages["verify"]["metric"] == "boxes kept"
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.9
    check(next((tmp_path / "runs" / "small").glob("*.edgeloop")), PointMaps)


@pytest.mark.long
def test_axes_of_points_are_kept_in_both_runtimes(spots: Path, tmp_path: Path) -> None:
    found, said = compressed(export(tmp_path / "axes.onnx", True, ("simcc_x", "simcc_y")), spots, tmp_path / "small", *WORDS)
    assert "hold scores along the axes, 2 a pixel, of 3 points" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.9
    check(next((tmp_path / "runs" / "small").glob("*.edgeloop")), PointAxes)


def test_what_is_not_sure_is_said(spots: Path, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).uniform(0, 1, (1, 3, SIDE * 2))
    path = answering(tmp_path / "net.onnx", {"out_x": scores, "out_y": scores[..., ::-1]}, (SIDE, SIDE))
    base = ["compress", path, "--calibrate", spots, "--normalize", "unit", "--fit", "letterbox", "--prepare-only"]
    done = edgeloop_here(*base, "--labels", "spots", "--out", tmp_path / "guessed")
    assert done.returncode == 0 and "please check: out_x [3, 128] and out_y [3, 128] hold scores along the axes" in done.stderr, (
        done.stderr
    )
    done = edgeloop_here(*base, "--out", tmp_path / "unnamed")
    assert done.returncode == 0 and "1 labels without names" in done.stderr and "3 points, without names" in done.stderr
    done = edgeloop_here(*base, "--labels", "a,b", "--boxes", "{layout: point_axes, points: 3}", "--out", tmp_path / "refused")
    assert "1 scores, and there are 2 labels" in sentence(done, done.returncode) and not (tmp_path / "refused").exists()
    maps = answering(tmp_path / "maps.onnx", {"out": np.random.default_rng(0).uniform(0, 1, (1, 17, 16, 16))}, (SIDE, SIDE))
    base[1] = maps
    labels = ",".join(f"label {number}" for number in range(17))
    done = edgeloop_here(*base, "--labels", labels, "--out", tmp_path / "pixels")
    assert done.returncode == 0 and "the share of pixels with the same label" in done.stderr
    done = edgeloop_here(*base, "--out", tmp_path / "maps")
    assert done.returncode == 0 and "please check: out [17, 16, 16] holds a map of scores for each of 17 points" in done.stderr


def test_a_file_that_names_labels_of_another_output_is_a_pose_all_the_same(tmp_path: Path) -> None:
    """A hand's file names left and right; only what says the points is compressed."""
    rng, folder = np.random.default_rng(0), tmp_path / "hands"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    row = np.concatenate([rng.uniform(4, 28, (21, 2)), np.zeros((21, 1))], 1).reshape(1, 63)
    outputs = {"points": row, "presence": np.full((1, 1), 2.0), "side": np.ones((1, 1)), "world": row / 100}
    model = answering(tmp_path / "hand.onnx", outputs, (32, 32), {"labels": "left\nright"})
    out = tmp_path / "small"
    done = edgeloop_here(
        "compress", model, "--calibrate", folder, "--normalize", "unit", "--fit", "letterbox", "--prepare-only", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert "points [63] holds 21 points of 3 values in pixels, presence whether they are there" in done.stderr
    assert "what has these points is called hand" in done.stderr and "the model finds 20 boxes in 20 pictures" in done.stderr
    assert '"outputs": ["points", "presence"]' in (out / "recipe.yaml").read_text()
