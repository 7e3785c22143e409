"""Channels of very different sizes before hard-swish and SiLU: each gets a scale of its own, through the gate, in both runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgeloop_exporters.equalization import equalize
from edgeloop_exporters.gates import OPENS, snapped
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.simplification import simplify
from edgeloop_pipeline.quantization import diagnosis, quantized_graph
from edgeloop_pipeline.quantization.quantized_graph import Options
from hard_parts import furthest, reference, saved_of, shipped, splits_of

ACTIVATIONS = {"hard-swish": nn.Hardswish, "SiLU": nn.SiLU}


class Uneven(nn.Module):
    """As PP-LCNet after its norms are folded: some channels reach a hundred times as far as others."""

    def __init__(self, act: type[nn.Module]) -> None:
        super().__init__()
        spread = torch.logspace(-1, 1, 16)
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1), act()]
        for _ in range(3):
            layers += [nn.Conv2d(16, 16, 3, 1, 1, groups=16), act(), nn.Conv2d(16, 16, 1), act()]
        self.layers, self.scores = nn.Sequential(*layers), nn.Linear(16, 5)
        with torch.no_grad():
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    layer.weight.mul_(spread.reshape(-1, 1, 1, 1) * 3)
                    if layer.groups == 1 and layer.weight.shape[1] == 16:
                        layer.weight.div_(spread.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.layers(x).mean((2, 3)))
        return scores


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_scales_pass_through_gates_exactly_in_float(name: str) -> None:
    torch.manual_seed(0)
    network, x = Uneven(ACTIVATIONS[name]).eval(), torch.rand(4, 3, 32, 32)
    module = trace(network, x)
    simplify(module)
    fold_batchnorm(module)
    with torch.no_grad():
        before = module(x)
        assert len(equalize(module, x, through_gates=True)) >= 6
        torch.testing.assert_close(module(x), before, rtol=1e-4, atol=1e-4)
    opened = [node for node in module.graph.nodes if OPENS in node.meta]
    assert len(opened) >= 6
    for node in opened:  # 8 bits hold the factors as they are
        factor = getattr(module, node.args[1].target).flatten()
        torch.testing.assert_close(snapped(factor), factor)


@pytest.mark.parametrize("name", [pytest.param("SiLU", marks=pytest.mark.long), "hard-swish"])
def test_uneven_channels_keep_their_signal_in_both_runtimes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    splits = splits_of("")
    saved = saved_of(Uneven(ACTIVATIONS[name]), splits)
    with torch.no_grad():
        plain = saved.network(saved.normalization.normalize(torch.from_numpy(splits.test.values)))
    noise = {}
    for opened in (False, True):
        graph = quantized_graph.prepare(saved, splits, Options(equalize=True, through_gates=opened))
        quantized_graph.calibrate(graph, splits.train.values)
        scores = reference(graph, splits)
        noise[opened] = diagnosis.sqnr(plain, torch.from_numpy(scores))
    assert noise[True] > noise[False] + 3, noise
    found = shipped(graph, splits, tmp_path)
    assert furthest(graph, scores, found) <= 6  # more than a hundred without scales through gates
    for _, counted in found.values():
        assert not counted.floating, counted
    quantized_graph.save(tmp_path, graph)
    assert (reference(quantized_graph.load(saved, splits, tmp_path), splits) == scores).all()
