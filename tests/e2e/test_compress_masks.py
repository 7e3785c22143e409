"""Somebody's segmentation model through `edgeloop compress`: int8 files that answer masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_compress import compressed
from torch import Tensor, nn

import edgeloop
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Segmentation
from edgeloop_exporters.quiet import quiet

SIDE = 48


class Painter(nn.Module):
    """Finds what is red, and what is green, on grey. `maps`: 3 with the background's logits, or 1 of what is red."""

    def __init__(self, maps: int, last: bool, sigmoid: bool) -> None:
        super().__init__()
        self.maps, self.last, self.sigmoid = maps, last, sigmoid
        self.stem, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
        with torch.no_grad():
            self.stem.weight.mul_(0.02)
            self.stem.weight[:3, :, 1, 1] = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [0.4, 0.4, 0.4]])
            self.stem.bias.zero_()  # type: ignore[union-attr]
            self.head.weight.mul_(0.02)
            self.head.weight[:, :3, 0, 0] = torch.tensor([[0.0, 0, 1], [9, 0, 0], [0, 9, 0]])
            self.head.bias.copy_(torch.tensor([4.0, -2, -2]))  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        found = self.head(self.stem(image).relu())
        found = found if self.maps == 3 else found[:, 1:2] - 4
        found = found.sigmoid() if self.sigmoid else found
        return found.permute(0, 2, 3, 1) if self.last else found


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for number in range(36):
        picture = rng.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8)
        for _ in range(number % 4):
            x, y, size = (int(v) for v in [*rng.integers(0, 30, 2), rng.integers(10, 20)])
            picture[y : y + size, x : x + size] = (230, 20, 20) if rng.integers(2) else (20, 230, 20)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    return folder


FORMS = {
    "three labels": (3, False, False, "background,red,green", "the share of pixels with the same label"),
    "labels last": (3, True, False, "background,red,green", "the share of pixels with the same label"),
    "one map": (1, False, True, "red", "the overlap of the two masks"),
    "one map of logits, channel last": (1, True, False, "red", "the overlap of the two masks"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", FORMS)
def test_the_bundle_answers_masks(name: str, squares: Path, tmp_path: Path) -> None:
    maps, last, sigmoid, labels, judged = FORMS[name]
    with quiet():
        torch.onnx.export(
            Painter(maps, last, sigmoid).eval(), (torch.rand(2, 3, SIDE, SIDE),), str(tmp_path / "p.onnx"), dynamo=True,
            input_names=["image"], output_names=["out"], dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False,
            verbose=False,
        )  # fmt: skip
    found, said = compressed(tmp_path / "p.onnx", squares, tmp_path / "small", "--labels", labels, "--normalize", "unit")
    assert judged in said and "masks of" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.9
    path = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    with Bundle.open(path) as bundle:
        task = bundle.manifest.task
        assert isinstance(task, Segmentation) and task.background == "background" and bundle.manifest.drift is not None
    picture = np.full((SIDE, SIDE, 3), 110, np.uint8)
    picture[10:30, 8:24] = (230, 20, 20)
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(path, variant=variant)(picture)
        assert answer.masks is not None
        (mask,) = answer.masks
        there = mask.pixels()
        assert mask.label == "red" and (there == (picture[..., 0] > 200)).mean() > 0.97
