"""Detectors whose boxes several outputs say: levels of scores and distances, boxes beside scores, and a size that goes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_compress import compressed
from test_compress_detectors import LABELS, SIDE, STRIDES, Finder, squares
from torch import Tensor, nn

import edgeloop
from commands import edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.boxes import Distances, Rows
from edgeloop_contract.tasks import Detection
from edgeloop_exporters.quiet import quiet

__all__ = ["squares"]
BINS = 8
BATCH = torch.export.Dim("batch")


class Levels(Finder):
    """As PicoDet gives them: of each grid the scores, then of each grid the logits of distances in bins."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        seen = self.stem(images).relu()
        levels = [nn.functional.avg_pool2d(seen, stride) for stride in STRIDES]
        scores = [self.scores(level).flatten(2).transpose(1, 2).sigmoid() for level in levels]
        sides = [(self.sides(level).flatten(2).transpose(1, 2).relu().unsqueeze(3) - torch.arange(BINS)).abs() for level in levels]
        return (*scores, *((-4 * side).flatten(2) for side in sides))


class Sized(Finder):
    """As YOLO-NAS gives them, corners beside scores; the size of the picture that came goes in and scales the boxes."""

    def forward(self, image: Tensor, orig_target_sizes: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = super().forward(image).transpose(1, 2)
        middle, size = rows[..., :2], rows[..., 2:4]
        scale = (orig_target_sizes / SIDE).flip(1).repeat(1, 2).unsqueeze(1)
        return torch.cat([middle - size / 2, middle + size / 2], 2) * scale, rows[..., 4:]


def written(network: nn.Module, path: Path, inputs: list[str], outputs: list[str]) -> Path:
    given = [torch.rand(2, 3, SIDE, SIDE), torch.full((2, 2), SIDE)][: len(inputs)]
    with quiet():
        torch.onnx.export(
            network.eval(), tuple(given), str(path), dynamo=True, input_names=inputs, output_names=outputs,
            dynamic_shapes=tuple({0: BATCH} for _ in given), external_data=False, verbose=False,
        )  # fmt: skip
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"names": str(dict(enumerate(LABELS)))})
    onnx.save(model, path)
    return path


def answered(bundle: Path, kind: type) -> None:
    """A red square where nothing else is has its box, in both runtimes."""
    with Bundle.open(bundle) as opened:
        task = opened.manifest.task
        assert isinstance(task, Detection) and isinstance(task.decode, kind) and tuple(task.labels) == LABELS
    picture = np.full((SIDE, SIDE, 3), 110, np.uint8)
    picture[20:44, 30:54] = (230, 20, 20)
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(bundle, variant=variant)(picture)
        assert answer.boxes and answer.boxes[0].label == "red" and answer.boxes[0].score > 0.5
        left, top, right, bottom = answer.boxes[0].box
        assert 20 < (left + right) / 2 < 60 and 10 < (top + bottom) / 2 < 54 and right - left > 8


CASES = {
    "levels": (Levels, ["images"], [f"{kind}_{s}" for kind in ("cls", "reg") for s in STRIDES], (), Distances, "grids of 8, 16, 32"),
    "sized": (
        Sized, ["image", "orig_target_sizes"], ["pred_boxes", "pred_scores"], ("--constant", f"orig_target_sizes={SIDE},{SIDE}"), Rows,
        "holds boxes by corners, in pixels, by their values; pred_scores their scores",
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", list(CASES))
def test_boxes_of_several_outputs_go_from_command_to_answer(case: str, squares: Path, tmp_path: Path) -> None:
    make, inputs, outputs, more, kind, why = CASES[case]
    path = written(make(), tmp_path / "net.onnx", inputs, outputs)
    found, said = compressed(path, squares, tmp_path / "small", "--normalize", "unit", *more)
    assert why in said and "2 labels, " in said and "the share of boxes that both find" in said
    files = next(stage for stage in found["stages"] if stage["name"] == "verify")["metrics"]["variants"]
    assert set(files) == {"onnx-int8", "tflite-int8"} and min(file["accuracy"]["value"] for file in files.values()) >= 0.85
    answered(next((tmp_path / "runs" / "small").glob("*.edgeloop")), kind)


def test_a_file_in_the_originals_place_is_refused_where_outputs_are_joined(squares: Path, tmp_path: Path) -> None:
    path = written(Levels(), tmp_path / "net.onnx", ["images"], CASES["levels"][2])
    base = ["compress", path, "--calibrate", squares, "--normalize", "unit", "--out", tmp_path / "small", "--prepare-only"]
    done = edgeloop_here(*base, "--io", "original")
    assert "are joined, as boxes; leave it out, or add --task tensors" in sentence(done, 2) and not (tmp_path / "small").exists()
    done = edgeloop_here(*base, "--task", "tensors")
    assert done.returncode == 0 and "boxes" not in (tmp_path / "small" / "recipe.yaml").read_text()
