"""A network as its int8 files compute it, with ranges from some samples and without any repair."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from edgeloop_exporters import quantization
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.simplification import simplify


def rounded(net: nn.Module, normalization: InputNormalization, samples: np.ndarray) -> fx.GraphModule:
    """`samples`: raw (N, *sample)."""
    normal = normalization.normalize(torch.from_numpy(samples))
    graph = trace(net.eval(), normal)
    simplify(graph)
    fold_batchnorm(graph)
    round_to_integers(graph, normalization, normal)
    return graph


def round_to_integers(graph: fx.GraphModule, normalization: InputNormalization, normal: torch.Tensor) -> None:
    """Of a simplified graph, in place. `normal`: normalized samples, which the ranges come from."""
    quantization.insert(graph, quantization.plan(graph, normalization.input_qparams))
    quantization.set_mode(graph, "observe", "off")
    with torch.no_grad():
        graph(normal)
    quantization.choose_ranges(graph)
    quantization.set_mode(graph, "quantize", "quantize")
    quantization.settle(graph)
