"""A detector that decodes its boxes inside: 8 bits for boxes and scores together leave no score, so the decoder stays in float."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgeloop_exporters.decoders import decoder_nodes
from edgeloop_exporters.graph import WEIGHTED, trace
from edgeloop_pipeline.quantization import quantized_graph
from hard_parts import reference, saved_of, shipped, splits_of

LABELS, BINS, SIDE = 3, 4, 32


class Detector(nn.Module):
    """A head as YOLOv8's exports have it: distances by their distribution, anchors, strides, boxes and scores in one array."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(16, 4 * BINS, 1), nn.Conv2d(16, LABELS, 1)
        nn.init.constant_(self.scores.bias, -3.0)  # type: ignore[arg-type]
        self.mean = nn.Conv2d(BINS, 1, 1, bias=False)
        self.mean.weight.data = torch.arange(float(BINS)).reshape(1, BINS, 1, 1)
        side = SIDE // 2
        y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()])[None])

    def forward(self, image: Tensor) -> Tensor:
        seen = self.body(image)
        both = torch.cat([self.boxes(seen), self.scores(seen)], 1).flatten(2)
        far = self.mean(both[:, : 4 * BINS].reshape(-1, 4, BINS, both.shape[2]).transpose(1, 2).softmax(1)).reshape(
            -1, 4, both.shape[2]
        )
        low, high = self.grid - far[:, :2], self.grid + far[:, 2:]
        return torch.cat([torch.cat([(low + high) / 2, high - low], 1) * 40.0, both[:, 4 * BINS :].sigmoid()], 1)


def test_scores_beside_boxes_survive_in_both_runtimes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    splits = replace(splits_of("boxes"), task="tensors")
    saved = saved_of(Detector(), splits)
    graph = quantized_graph.prepare(saved, splits)
    quantized_graph.calibrate(graph, splits.train.values)
    with torch.no_grad():
        x = saved.normalization.normalize(torch.from_numpy(splits.test.values))
        wanted = saved.network(x).numpy()
    assert wanted[:, 4:].max() < 1 < 100 < wanted[:, :4].max()
    for name, found in {
        "torch": reference(graph, splits),
        **{n: s for n, (s, _) in shipped(graph, splits, tmp_path).items()},
    }.items():
        error = np.abs(found.reshape(wanted.shape) - wanted)
        assert error[:, 4:].max() < 0.05, name  # one step of 255 of the whole would be half of a score
        assert np.quantile(error[:, :4], 0.95) < 4.0, name


class Sorted(Detector):
    """The same end to end, as YOLOv10's and YOLO26's exports: the best of all scores with their boxes and labels."""

    def forward(self, image: Tensor) -> Tensor:
        rows = super().forward(image).permute(0, 2, 1)
        every = rows[..., 4:].flatten(1)
        scores = every.topk(20)[0]
        at = torch.sort(every, dim=1, descending=True, stable=True)[1].narrow(1, 0, 20)  # as an import keeps equal values in order
        places, labels = torch.div(at, LABELS, rounding_mode="floor"), at % LABELS
        boxes = rows[..., :4].gather(1, places[..., None].expand(-1, -1, 4))
        return torch.cat([boxes, scores[..., None], labels[..., None].to(rows.dtype)], -1)


def test_the_best_are_chosen_in_float_in_both_runtimes(tmp_path: Path) -> None:
    """In integers, with one scale for pixels, scores and labels, no score was left."""
    torch.manual_seed(0)
    splits = replace(splits_of("boxes"), task="tensors")
    saved = saved_of(Sorted(), splits)
    graph = quantized_graph.prepare(saved, splits)
    quantized_graph.calibrate(graph, splits.train.values)
    with torch.no_grad():
        x = saved.normalization.normalize(torch.from_numpy(splits.test.values))
        wanted = saved.network(x).numpy()
    for name, found in {
        "torch": reference(graph, splits),
        **{n: s for n, (s, _) in shipped(graph, splits, tmp_path).items()},
    }.items():
        made = found.reshape(wanted.shape)
        assert np.abs(made[..., 4] - wanted[..., 4]).max() < 0.05, name
        assert set(np.unique(made[..., 5])) <= {0.0, 1.0, 2.0}, name


def test_layers_stay_in_integers_and_other_endings_too() -> None:
    x = torch.rand(2, 3, SIDE, SIDE)
    module = trace(Detector(), x)
    tail = decoder_nodes(module)
    in_float = [node for node in tail if node.target in WEIGHTED]
    assert len(in_float) == 1 and in_float[0].meta["val"].shape[1] == 1  # the mean of the distribution, and no other layer
    for network in (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2), nn.Sigmoid()), Detector().body):
        assert not decoder_nodes(trace(network, x))
