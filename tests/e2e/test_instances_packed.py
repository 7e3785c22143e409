"""Masks of single things that somebody else's detector finds: pixels of the picture that came, on the device and through the API."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import edgeloop
from commands import edgeloop_here, sentence
from constant_models import answering
from edgeloop_agent.updates import canary
from edgeloop_contract import instances
from edgeloop_contract.archive import Bundle
from edgeloop_contract.tasks import Instances
from serving import eventually, serving
from tflite_parts import constant_file

SIDE, COUNT, CELLS = 64, 8, 16
PLACES = 64 + 16 + 4  # of strides 8, 16 and 32
STEPS = "[{step: colour}, {step: letterbox, height: 64, width: 64}]"
SEGMENT = {"task": "segment", "stride": "32", "imgsz": "[64, 64]", "names": "{0: 'cat', 1: 'dog'}"}
THINGS = [((8.3, 12.6, 40.2, 50.9), 0.9, 1), ((20.0, 10.0, 60.0, 30.0), 0.6, 0), ((1.0, 20.5, 15.5, 47.0), 0.5, 0)]  # in the sample
HEIGHT, WIDTH = 96, 128  # of a picture: half as large in the sample, 8 pixels, or two cells, from its top


def prototypes() -> np.ndarray:
    """Waves over the sample, (1, COUNT, CELLS, CELLS)."""
    y, x = np.mgrid[:CELLS, :CELLS] / CELLS
    return np.stack([np.sin(2 * x * (k % 3 + 1) + k) * np.cos(3 * y * (k // 3 + 1) - k) for k in range(COUNT)])[None]


def weights(number: int) -> np.ndarray:
    return np.cos(np.arange(COUNT) * (number + 1.7)) + 0.2


def columns(first: bool = True) -> np.ndarray:
    """As YOLOv8's segmentation: (1, 4 + labels + coefficients, places)."""
    rows = np.zeros((1, 4 + 2 + COUNT, PLACES))
    for number, ((x1, y1, x2, y2), score, label) in enumerate(THINGS):
        rows[0, :4, 5 * number] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        rows[0, 4 + label, 5 * number] = score
        rows[0, 6:, 5 * number] = weights(number)
    return rows if first else rows.transpose(0, 2, 1)


def finished() -> np.ndarray:
    """As end-to-end exports: (1, rows, 6 + coefficients)."""
    rows = np.zeros((1, 20, 6 + COUNT))
    for number, (box, score, label) in enumerate(THINGS):
        rows[0, number] = [*box, score, label, *weights(number)]
    return rows


def with_objectness() -> np.ndarray:
    """As YOLOv5's: (1, places, 5 + labels + coefficients), three anchors to a cell."""
    plain = np.tile(columns(first=False), (1, 3, 1))
    plain[0, PLACES:, 4:6] = 0
    return np.concatenate([plain[..., :4], np.ones((1, 3 * PLACES, 1)), plain[..., 4:]], -1)


def expected(box: tuple[float, ...], number: int) -> tuple[list[float], np.ndarray]:
    """The box and mask in the picture, by torch: the whole picture's logits, those above 0, and the box's pixels of them."""
    maps = torch.from_numpy(prototypes()[0]).float()
    logits = torch.tensor(weights(number)).float() @ maps.view(COUNT, -1)
    inside: Tensor = logits.view(1, 1, CELLS, CELLS)[:, :, 2:-2]  # without the letterbox's border
    mask = functional.interpolate(inside, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)[0, 0] > 0
    x1, y1, x2, y2 = (2 * (edge - move) for edge, move in zip(box, (0, 8, 0, 8), strict=True))
    y, x = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    return [x1, y1, x2, y2], (mask & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)).numpy()


LAYOUT = "layout: rows, rows: output0, channels: first, coefficients: 8"
SAID = ("--labels", "cat,dog", "--preprocess", STEPS)
KNOWN: dict[str, tuple[np.ndarray, bool, dict[str, str], tuple[str, ...]]] = {
    "by its metadata": (columns(), True, SEGMENT, ()),
    "finished rows": (finished(), True, SEGMENT, ()),
    "with objectness": (with_objectness(), True, SEGMENT, ()),
    "as said": (columns(), True, {}, (*SAID, "--boxes", f"{{{LAYOUT}, prototypes: output1}}")),
    "channels last": (columns(), False, {}, (*SAID, "--boxes", f"{{{LAYOUT}, prototypes: output1, prototype_channels: last}}")),
}


def packed(folder: Path, rows: np.ndarray, first: bool, said: dict[str, str], *more: str) -> Path:
    maps = prototypes() if first else prototypes().transpose(0, 2, 3, 1)
    model = answering(folder / "seg.onnx", {"output0": rows, "output1": maps}, (SIDE, SIDE), said)
    done = edgeloop_here("pack", model, "--out", folder / "seg.edgeloop", *more)
    assert done.returncode == 0, done.stderr
    return folder / "seg.edgeloop"


@pytest.mark.parametrize("name", KNOWN)
def test_masks_in_pixels_of_the_picture(name: str, tmp_path: Path) -> None:
    rows, first, said, more = KNOWN[name]
    path = packed(tmp_path, rows, first, said, *more)
    with Bundle.open(path) as bundle:
        assert isinstance(bundle.manifest.task, Instances) and "task instances" in bundle.manifest.requires
    check(edgeloop.open(path)(np.full((HEIGHT, WIDTH, 3), 110, np.uint8)))


def check(answer: edgeloop.Answer) -> None:
    assert answer.boxes is not None and [box.label for box in answer.boxes] == ["dog", "cat", "cat"]
    for box, (number, (place, score, _)) in zip(answer.boxes, enumerate(THINGS), strict=True):
        edges, mask = expected(place, number)
        assert box.score == pytest.approx(score, abs=1e-3) and box.box == pytest.approx(edges, abs=0.02)
        assert box.mask is not None and box.mask.size == [HEIGHT, WIDTH] and 50 < mask.sum() < 0.9 * mask.size
        assert (box.mask.pixels() != mask).sum() <= 1  # a logit of nearly 0
    assert (
        np.asarray(edgeloop.draw(np.zeros((HEIGHT, WIDTH, 3), np.uint8), answer))[answer.boxes[0].mask.pixels()].any(-1).mean()
        > 0.9
    )


@pytest.mark.parametrize("file", ["metadata.json", "temp_meta.txt"])
@pytest.mark.parametrize("turned", [False, True])
def test_tflite_files_of_ultralytics(file: str, turned: bool, tmp_path: Path) -> None:
    """Boxes as shares of the picture, prototypes with channels last, outputs in either order, and metadata in a zip at the end."""
    rows = columns()
    rows[0, :4] /= SIDE
    outputs = {"Identity": rows, "Identity_1": prototypes().transpose(0, 2, 3, 1)}
    content = constant_file(SIDE, dict(reversed(outputs.items())) if turned else outputs)
    zipped = io.BytesIO(content)
    with zipfile.ZipFile(zipped, "a") as archive:
        said = {"task": "segment", "stride": 32, "imgsz": [SIDE, SIDE], "names": {"0": "cat", "1": "dog"}, "author": "Ultralytics"}
        archive.writestr(file, json.dumps(said) if file.endswith("json") else str({**said, "names": {0: "cat", 1: "dog"}}))
    (tmp_path / "seg.tflite").write_bytes(zipped.getvalue())
    done = edgeloop_here("pack", tmp_path / "seg.tflite", "--out", tmp_path / "seg.edgeloop", "--preprocess", STEPS)
    assert done.returncode == 0, done.stderr
    check(edgeloop.open(tmp_path / "seg.edgeloop")(np.full((HEIGHT, WIDTH, 3), 110, np.uint8)))


def test_more_pixels_than_there_is_time_for_make_coarser_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = edgeloop.open(packed(tmp_path, columns(), True, SEGMENT))
    fine = model(np.full((HEIGHT, WIDTH, 3), 110, np.uint8)).boxes
    monkeypatch.setattr(instances, "MOST_PIXELS", 1000)
    coarse = model(np.full((HEIGHT, WIDTH, 3), 110, np.uint8)).boxes
    assert fine is not None and coarse is not None and [b.box for b in fine] == [b.box for b in coarse]
    for a, b in zip(fine, coarse, strict=True):
        assert a.mask is not None and b.mask is not None and a.mask.size == b.mask.size and a.mask != b.mask
        ours, theirs = a.mask.pixels(), b.mask.pixels()
        assert (ours & theirs).sum() > 0.85 * (ours | theirs).sum()


def test_through_the_agent(tmp_path: Path) -> None:
    path = packed(tmp_path, columns(), True, SEGMENT)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / "in" / "a.png")
    sample = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    tensor = {"name": "input", "shape": list(sample.shape), "datatype": "UINT8", "data": sample.ravel().tolist()}
    text = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\nsettle_seconds = 0.1\n[runtime]\nthreads = 1\n'
    with serving(tmp_path, text, path) as agent:
        (line,) = eventually(lambda: agent.lines)
        body = json.dumps({"inputs": [tensor], "parameters": {"boxes": True}}).encode()
        answer = json.load(urlopen(Request(f"{agent.address}/v2/models/seg/infer", body)))
        with urlopen(f"{agent.address}/page/picture") as shown:
            drawn = np.asarray(Image.open(shown))
    edges, mask = expected(THINGS[0][0], 0)
    first = line["boxes"][0]
    assert first["mask"]["size"] == [HEIGHT, WIDTH] and sum(first["mask"]["counts"]) == HEIGHT * WIDTH
    assert abs(sum(first["mask"]["counts"][1::2]) - int(mask.sum())) <= 1
    assert [box["mask"]["size"] for box in answer["parameters"]["boxes"][0]] == [[SIDE, SIDE]] * 3
    inner = mask.copy()
    inner[:2] = inner[-2:] = False
    assert np.abs(drawn[inner].astype(int) - 90).max(-1).mean() > 25  # half of a colour lies over it
    assert drawn.shape == (HEIGHT, WIDTH, 3) and edges[0] > 0


@pytest.mark.long  # the same way as of poses
def test_a_canary_and_a_drift_reference(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    for number in range(200):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    path = packed(tmp_path, columns(), True, SEGMENT, "--samples", str(folder))
    with Bundle.open(path) as bundle:
        drift = bundle.manifest.drift
    assert drift is not None and "share of dog" in drift.features
    (tmp_path / "agent.toml").write_text(f'bundles = ["{path}"]\nstate = "{tmp_path / "state"}"\n[source]\nkind = "none"\n')
    assert canary.check(tmp_path / "agent.toml", path).samples == 16


REFUSED: dict[str, tuple[str, str]] = {
    "no such output": (f"{{{LAYOUT}, prototypes: output2}}", "masks need the output 'output2'"),
    "another number of maps": (f"{{{LAYOUT.replace('8', '7')}, prototypes: output1}}", "3 scores"),
    "maps that are last": (f"{{{LAYOUT}, prototypes: output1, prototype_channels: last}}", "8 maps are needed, channels last"),
    "no coefficients": ("{layout: rows, rows: output0, channels: first, prototypes: output1}", "10 scores, and there are 2 labels"),
    "a layout without them": ("{layout: heatmap, stride: 4, prototypes: output1}", "--boxes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_sentence(name: str, tmp_path: Path) -> None:
    layout, why = REFUSED[name]
    model = answering(tmp_path / "seg.onnx", {"output0": columns(), "output1": prototypes()}, (SIDE, SIDE))
    done = edgeloop_here("pack", model, "--out", tmp_path / "seg.edgeloop", *SAID, "--boxes", layout)
    assert done.returncode != 0 and re.search(why, sentence(done, done.returncode)), done.stderr
    assert not (tmp_path / "seg.edgeloop").exists()
