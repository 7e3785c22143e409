"""Convolutions that are written in a form which kernels do not know: named paddings, groups of volumes, fixed filters, minus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters import convert
from edgeloop_exporters.convolutions import cropped_paddings
from edgeloop_exporters.file_check import check_file
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.simplification import simplify

NORMALIZATION = InputNormalization("uint8", (100.0,), (40.0,))


class Filtered(nn.Module):
    """x less a fixed filter of it, less a layer of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.register_buffer("kernel", torch.full((3, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        blurred = nn.functional.conv2d(x, self.get_buffer("kernel"), padding=1, groups=3)
        return x - blurred.relu() - self.layer(x)


def folded(net: nn.Module, shape: tuple[int, ...]) -> tuple[fx.GraphModule, list[str]]:
    """Of raw samples of this shape, with its operations; it answers as the network does."""
    x = torch.randn(4, shape[-1], *shape[:-1])
    graph = trace(net.eval(), x)
    simplify(graph)
    fold_batchnorm(graph)
    cropped_paddings(graph)
    with torch.no_grad():
        assert torch.allclose(graph(x), net(x), atol=1e-4)
    return graph, [str(node.target) for node in graph.graph.nodes]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_paddings_by_name_are_layers_like_others() -> None:
    for layer, norm, shape in ((nn.Conv1d, nn.BatchNorm1d, (12, 3)), (nn.Conv2d, nn.BatchNorm2d, (12, 12, 3))):
        net = nn.Sequential(layer(3, 8, 4, padding="same"), norm(8), nn.ReLU(), layer(8, 8, 3, padding="valid"), norm(8))
        _, targets = folded(net, shape)
        kind = f"aten.{layer.__name__.lower()}.default"
        assert targets.count(kind) == 2 and targets.count("aten.constant_pad_nd.default") == 1, "before the even kernel"


def test_transposed_layers_have_a_padding_that_converters_know() -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 2, 0, 1),
        nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, dilation=2), nn.ConvTranspose2d(4, 4, 4, 2, 1),
    )  # fmt: skip
    graph, _ = folded(net, (5, 6, 3))
    layers = [node for node in graph.graph.nodes if "conv_transpose2d" in str(node.target)]
    assert [list(node.args[4]) for node in layers] == [[0, 0], [0, 0], [0, 0], [1, 1]]
    assert [list(node.args[5]) for node in layers[:3]] == [[0, 0]] * 3 and list(layers[2].args[7]) == [1, 1]


def test_a_fixed_filter_is_a_weight_and_minus_goes_into_the_layer() -> None:
    graph, targets = folded(Filtered(), (8, 8, 3))
    assert not graph.get_parameter("kernel").requires_grad
    assert targets.count("aten.sub.Tensor") == 1 and targets.count("aten.add.Tensor") == 1


@pytest.mark.long
def test_volumes_in_groups_are_whole_in_tflite() -> None:
    """The converter ends the process at some of them."""
    net = nn.Sequential(nn.Conv3d(2, 12, (5, 3, 1), padding=1, groups=2, bias=False), nn.ReLU(), nn.Conv3d(12, 4, 3, groups=4))
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 7, 2), dtype=np.uint8)
    graph, _ = folded(net, (5, 6, 7, 2))
    content = convert.written("tflite", graph, NORMALIZATION, x.shape[1:], False)
    check_file(content, "tflite", graph, NORMALIZATION, x, quantized=False)
    wide, _ = folded(nn.Sequential(nn.Conv3d(2, 512, 1), nn.Conv3d(512, 512, 3, groups=512)), (5, 6, 7, 2))
    with pytest.raises(ModelError, match=r"layer 1: TFLite has no convolution over volumes in 512 groups"):
        convert.written("tflite", wide, NORMALIZATION, x.shape[1:], False)
