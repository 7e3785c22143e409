"""Somebody's detector with masks of things through `edgeloop compress`: int8 is judged by boxes with masks, and both are answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from test_compress import compressed
from test_compress_detectors import LABELS, SIDE, Finder
from torch import Tensor, nn

import edgeloop
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Instances
from edgeloop_exporters.quiet import quiet


class Outliner(Finder):
    """Finds squares as its parent does; and what is red and what is green, as prototypes that each box takes one of."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(4, len(LABELS), 1)
        with torch.no_grad():
            self.maps.weight.copy_(torch.tensor([[4.0, -1, 0, 0], [-1, 4, 0, 0]]).reshape(2, 4, 1, 1))
            self.maps.bias.fill_(-3.0)  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = super().forward(images)
        seen = nn.functional.avg_pool2d(self.stem(images).relu(), 4)
        return torch.cat([rows, rows[:, 4:]], 1), self.maps(seen)


def export(path: Path) -> None:
    with quiet():
        torch.onnx.export(
            Outliner().eval(), (torch.rand(2, 3, SIDE, SIDE),), str(path), dynamo=True, input_names=["images"],
            output_names=["output0", "output1"], dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False, verbose=False,
        )  # fmt: skip
    model = onnx.load(path)
    said = {"task": "segment", "stride": "32", "imgsz": str([SIDE, SIDE]), "names": str(dict(enumerate(LABELS)))}
    onnx.helper.set_model_props(model, said)
    onnx.save(model, path)


@pytest.mark.long
def test_masks_of_things_are_kept_in_both_runtimes(tmp_path: Path) -> None:
    folder, rng = tmp_path / "squares", np.random.default_rng(0)
    folder.mkdir()
    for number in range(40):
        picture = rng.integers(90, 130, (SIDE, 96, 3)).astype(np.uint8)
        for _ in range(number % 4):
            x, y, size = int(rng.integers(0, 70)), int(rng.integers(0, 40)), int(rng.integers(16, 26))
            picture[y : y + size, x : x + size] = (230, 20, 20) if rng.integers(2) else (20, 230, 20)
        Image.fromarray(picture).save(folder / f"{number:02}.png")
    export(tmp_path / "outliner.onnx")
    found, said = compressed(tmp_path / "outliner.onnx", folder, tmp_path / "small")
    assert "2 coefficients of a mask's prototypes, output1 [2, 16, 16]" in said and "with masks that overlap by half" in said
    stages = {stage["name"]: stage["metrics"] for stage in found["stages"]}
    assert stages["verify"]["metric"] == "boxes kept"
    assert min(file["accuracy"]["value"] for file in stages["verify"]["variants"].values()) >= 0.8
    path = next((tmp_path / "runs" / "small").glob("*.edgeloop"))
    with Bundle.open(path) as bundle:
        assert isinstance(bundle.manifest.task, Instances) and bundle.manifest.drift is not None
    picture = np.full((SIDE, 96, 3), 110, np.uint8)
    picture[20:44, 30:54] = (230, 20, 20)
    truth = np.zeros((SIDE, 96), bool)
    truth[20:44, 30:54] = True
    for variant in ("onnx-int8", "tflite-int8"):
        answer = edgeloop.open(path, variant=variant)(picture)
        assert answer.boxes is not None and answer.boxes[0].label == "red" and answer.boxes[0].mask is not None
        covered = [box.mask.pixels() for box in answer.boxes if box.mask is not None]
        together = np.any(covered, axis=0)
        assert (together & truth).sum() / (together | truth).sum() > 0.6
