"""Somebody's detector through `edgeloop compress`: it is known by its metadata and its shape, keeps its boxes, and answers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from test_compress import compressed
from torch import Tensor, nn

import edgeloop
from commands import edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes import Rows, find_boxes, iou_matrix
from edgeloop_contract.tasks import Detection
from edgeloop_exporters.quiet import quiet

SIDE, STRIDES, LABELS = 64, (8, 16, 32), ("red", "green")
CELLS = sum((SIDE // stride) ** 2 for stride in STRIDES)


class Finder(nn.Module):
    """Finds red and green squares by their colour, one to a cell; written as YOLOv8's export: (N, 4 + labels, cells).

    `posed`: and two points of each, the box's upper left corner and its middle, with their scores behind the labels'.
    """

    def __init__(self, posed: bool = False) -> None:
        super().__init__()
        self.posed = posed
        self.stem = nn.Conv2d(3, 4, 1)
        with torch.no_grad():  # how red, how green, and nothing
            self.stem.weight.copy_(torch.tensor([[3.0, -2, -2], [-2, 3, -2], [0, 0, 0], [1, 1, 1]]).reshape(4, 3, 1, 1))
            self.stem.bias.zero_()  # type: ignore[union-attr]
        self.scores = nn.Conv2d(4, len(LABELS), 1)
        with torch.no_grad():
            self.scores.weight.copy_(torch.tensor([[6.0, -3, 0, 0], [-3, 6, 0, 0]]).reshape(2, 4, 1, 1))
            self.scores.bias.fill_(-9.0)  # type: ignore[union-attr]
        self.sides = nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            self.sides.weight.mul_(0.05)
            self.sides.bias.fill_(1.5)  # type: ignore[union-attr]
        grids, strides = [], []
        for stride in STRIDES:
            places = (torch.arange(SIDE // stride) + 0.5) * stride
            y, x = torch.meshgrid(places, places, indexing="ij")
            grids.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((1, x.numel()), float(stride)))
        self.register_buffer("grid", torch.cat(grids, 1)[None])
        self.register_buffer("steps", torch.cat(strides, 1)[None])

    def forward(self, images: Tensor) -> Tensor:
        seen = self.stem(images).relu()
        levels = [nn.functional.avg_pool2d(seen, stride) for stride in STRIDES]
        both = [torch.cat([self.sides(level), self.scores(level)], 1).flatten(2) for level in levels]
        joined = torch.cat(both, 2)
        far = joined[:, :4].relu() * self.steps
        low, high = self.grid - far[:, :2], self.grid + far[:, 2:]
        middle, scores = (low + high) / 2, joined[:, 4:].sigmoid()
        best = scores.amax(1, keepdim=True)
        points = [low, best, middle, best] if self.posed else []
        return torch.cat([middle, high - low, scores, *points], 1)


class Ender(Finder):
    """The same end to end, as YOLOv10 and YOLO26: the twenty best as corners, score and label."""

    def forward(self, images: Tensor) -> Tensor:
        rows = super().forward(images).permute(0, 2, 1)
        scores, at = rows[..., 4:].flatten(1).topk(20)
        places = torch.div(at, len(LABELS), rounding_mode="floor")[..., None].expand(-1, -1, 4)
        middle, size = rows[..., :4].gather(1, places).split(2, -1)
        labels = (at % len(LABELS)).to(rows.dtype)
        return torch.cat([middle - size / 2, middle + size / 2, scores[..., None], labels[..., None]], -1)


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of grey noise, most with one or two coloured squares."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for number in range(40):
        picture = rng.integers(90, 130, (SIDE, 96, 3)).astype(np.uint8)
        for _ in range(number % 4):
            x, y, size = int(rng.integers(0, 70)), int(rng.integers(0, 40)), int(rng.integers(16, 26))
            picture[y : y + size, x : x + size] = (230, 20, 20) if rng.integers(2) else (20, 230, 20)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


def export(path: Path, *, known: bool, posed: bool = False, ended: bool = False) -> None:
    batch = torch.export.Dim("batch")
    with quiet():
        torch.onnx.export(
            (Ender() if ended else Finder(posed)).eval(), (torch.rand(2, 3, SIDE, SIDE),), str(path), dynamo=True, input_names=["images"],
            output_names=["output0"], dynamic_shapes=({0: batch},), external_data=False, verbose=False,
        )  # fmt: skip
    if known:
        model = onnx.load(path)
        said = {"task": "detect", "stride": "32", "imgsz": str([SIDE, SIDE]), "names": str(dict(enumerate(LABELS)))}
        onnx.helper.set_model_props(model, said | ({"task": "pose", "kpt_shape": "[2, 3]"} if posed else {}))
        onnx.save(model, path)


@pytest.mark.long
def test_a_detector_keeps_its_boxes_in_both_runtimes(squares: Path, tmp_path: Path) -> None:
    export(tmp_path / "finder.onnx", known=True)
    found, said = compressed(tmp_path / "finder.onnx", squares, tmp_path / "small")
    assert "pictures go into a letterbox of 64 × 64, from the file's metadata" in said
    assert "holds a column for each of 84 places" in said and "the share of boxes that both find" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert stages["verify"]["metric"] == "boxes kept"
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.85
    run = tmp_path / "runs" / "small"
    path = next(run.glob("*.edgeloop"))
    with Bundle.open(path) as bundle:
        task = bundle.manifest.task
        assert isinstance(task, Detection) and tuple(task.labels) == LABELS and bundle.manifest.drift is not None
        assert bundle.manifest.schema == 3 and isinstance(task.decode, Rows)
    picture = np.full((SIDE, 96, 3), 110, np.uint8)
    picture[20:44, 30:54] = (230, 20, 20)
    session = onnxruntime.InferenceSession(tmp_path / "finder.onnx")
    from edgeloop_contract.preprocessing import prepare

    sample = prepare(bundle.manifest.preprocessing, picture).values.astype(np.float32) / 255
    (raw,) = session.run(None, {"images": np.ascontiguousarray(sample.transpose(0, 3, 1, 2))})
    wanted = find_boxes(task.decode, {"": raw}, SIDE, SIDE, score_threshold=0.25, iou_threshold=0.5, most=10)
    assert len(wanted.boxes)
    scale = SIDE / 96  # of the letterbox
    theirs = (wanted.boxes - np.array([0, (SIDE - SIDE * scale) / 2] * 2)) / scale
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(path, variant=variant)(picture)
        assert answer.boxes is not None and answer.boxes[0].label == "red"
        ours = np.array([box.box for box in answer.boxes])
        assert iou_matrix(ours[:1], theirs).max() > 0.8 and abs(answer.boxes[0].score - wanted.scores[0]) < 0.08
    assert "1 × red" in (run / "report.html").read_text("utf-8") or "× green" in (run / "report.html").read_text("utf-8")


@pytest.mark.long
def test_an_end_to_end_detector_keeps_its_boxes_in_both_runtimes(squares: Path, tmp_path: Path) -> None:
    """Its rows are sorted by scores of which many are nearly equal, and pixels stand beside them."""
    export(tmp_path / "ender.onnx", known=True, ended=True)
    found, said = compressed(tmp_path / "ender.onnx", squares, tmp_path / "small")
    assert "[20, 6] holds finished boxes" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.85
    picture = np.full((SIDE, 96, 3), 110, np.uint8)
    picture[20:44, 30:54] = (230, 20, 20)
    path = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(path, variant=variant)(picture)
        assert answer.boxes is not None and answer.boxes[0].label == "red" and answer.boxes[0].score > 0.5


@pytest.mark.long
def test_points_of_boxes_are_kept_too(squares: Path, tmp_path: Path) -> None:
    export(tmp_path / "poses.onnx", known=True, posed=True)
    found, said = compressed(tmp_path / "poses.onnx", squares, tmp_path / "small", "--points", "corner,middle")
    assert "2 points, as said" in said and "with points at the same places" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.8
    picture = np.full((SIDE, 96, 3), 110, np.uint8)
    picture[20:44, 30:54] = (230, 20, 20)
    path = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(path, variant=variant)(picture)
        assert answer.boxes is not None and answer.boxes[0].points is not None
        box, (corner, middle) = answer.boxes[0].box, answer.boxes[0].points
        assert (corner.label, middle.label) == ("corner", "middle")
        assert np.abs(np.array(corner.point) - box[:2]).max() < 4
        assert np.abs(np.array(middle.point) - [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]).max() < 4


def test_what_is_not_sure_is_said_and_what_is_no_detector_is_refused(squares: Path, tmp_path: Path) -> None:
    export(tmp_path / "finder.onnx", known=False)
    base = ["compress", tmp_path / "finder.onnx", "--calibrate", squares, "--normalize", "unit", "--prepare-only"]
    done = edgeloop_here(*base, "--out", tmp_path / "guessed", "--fit", "letterbox")
    assert (
        done.returncode == 0 and "please check: output0 [6, 84] holds a column" in done.stderr and "(--task tensors" in done.stderr
    )
    assert "2 labels without names" in done.stderr
    done = edgeloop_here(*base, "--out", tmp_path / "plain", "--task", "tensors")
    assert done.returncode == 0 and "boxes" not in (tmp_path / "plain" / "recipe.yaml").read_text()
    wrong = "{layout: heatmap, stride: 4}"
    for more, expected in (
        (["--labels", "a,b,c"], "a box has 2 scores, and there are 3 labels"),
        (["--boxes", wrong, "--labels", "a,b"], "boxes need the output 'heatmap'"),
        (["--boxes", "{layout: nothing}", "--labels", "a,b"], "--boxes {layout: nothing}"),
    ):
        code = 2 if "--boxes" not in more or "nothing" in more[1] else 4
        done = edgeloop_here(*base, "--out", tmp_path / "refused", *more)
        assert done.returncode != 0 and expected in sentence(done, done.returncode), (done.stderr, code)
        assert not (tmp_path / "refused").exists()
    Image.new("RGB", (96, SIDE), (110, 110, 110)).save(tmp_path / "empty.png")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for number in range(20):
        grey = np.random.default_rng(number).integers(90, 130, (SIDE, 96, 3)).astype(np.uint8)
        Image.fromarray(grey).save(nothing / f"{number}.png")
    base[3] = nothing
    done = edgeloop_here(*base, "--out", tmp_path / "empty")
    assert "the model finds no box with a score of 0.25 in" in sentence(done, done.returncode) and not (tmp_path / "empty").exists()
