"""Networks that nobody chose: both int8 files answer as torch does, and none is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeloop_exporters import convert
from edgeloop_exporters.convolutions import cropped_paddings
from edgeloop_exporters.file_check import check_file
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.simplification import simplify
from matrix import cases
from random_networks import network
from rounded import round_to_integers

NORMALIZATION = InputNormalization("uint8", (100.0,), (40.0,))
SEEDS = {str(seed): seed for seed in range(40)}


@pytest.mark.parametrize("seed", cases(SEEDS, ("0",)))
def test_both_files_answer_as_torch_does(seed: str) -> None:
    net, shape = network(SEEDS[seed])
    x = np.random.default_rng(SEEDS[seed]).integers(0, 256, (16, *shape), dtype=np.uint8)
    normal = NORMALIZATION.normalize(torch.from_numpy(x))
    graph = trace(net, normal)
    simplify(graph)
    fold_batchnorm(graph)
    cropped_paddings(graph)
    with torch.no_grad():
        assert torch.allclose(graph(normal), net(normal), atol=1e-3), f"the graph is the network: {net}"
    round_to_integers(graph, NORMALIZATION, normal)
    for runtime in ("onnx", "tflite"):
        content = convert.written(runtime, graph, NORMALIZATION, shape, True)
        check_file(content, runtime, graph, NORMALIZATION, x, quantized=True)
