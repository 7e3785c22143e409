"""Operations that a converter or a runtime gets wrong or refuses: each comes out right in all four files, or with its layer's name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.errors import ModelError
from edgeloop_contract.manifest import Precision, Quantization, TensorSpec, Variant
from edgeloop_exporters import convert, kernels, quantization
from edgeloop_exporters.activations import least_read
from edgeloop_exporters.convolutions import cropped_paddings
from edgeloop_exporters.file_check import check_file
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.rewrites import trailing_softmax
from edgeloop_exporters.simplification import simplify
from matrix import cases
from rounded import round_to_integers

NORMALIZATION = InputNormalization("uint8", (100.0,), (40.0,))
SHAPE = (16, 16, 3)


class Do(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ChannelsFirstNorm(nn.Module):
    """As ConvNeXt's own code has it: by hand over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6)


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        return x + y.permute(0, 3, 1, 2)


class Blurred(nn.Module):
    """What a fixed filter takes from a picture: its weights are a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.full((16, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        return x - F.conv2d(x, self.get_buffer("kernel"), padding=1, groups=16)


class Slopes(nn.Module):
    """PReLU with slopes from −0.5 to `most`, behind a layer and behind a sum."""

    def __init__(self, most: float = 1.0) -> None:
        super().__init__()
        self.layer, self.bend, self.after = conv(), nn.PReLU(16), nn.PReLU(16)
        self.one = nn.PReLU(init=0.3)
        with torch.no_grad():
            self.bend.weight.copy_(torch.linspace(-0.5, most, 16))
            self.after.weight.copy_(torch.linspace(most, -0.1, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.layer(self.after(x + self.bend(self.layer(x)))))


def network(*middle: nn.Module, width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
    end = nn.Sequential(nn.Conv2d(width, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4))
    made = nn.Sequential(stem, *middle, end).train()
    with torch.no_grad():
        for _ in range(3):
            made(NORMALIZATION.normalize(torch.from_numpy(samples())))  # statistics of BatchNorm
    return made.eval()


def samples(count: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def conv(**options: object) -> nn.Module:
    return nn.Conv2d(16, 16, 3, padding=1, **options)  # type: ignore[arg-type]


def conv32() -> nn.Module:
    return nn.Conv2d(32, 16, 1)


class Gated(nn.Module):
    """Squeeze-excite."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), gate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.inside(x)


CONSTANT = torch.linspace(-1, 2, 16).reshape(1, 16, 1, 1)
BACK = torch.arange(15, -1, -1)[None, :, None, None]
MIXED = (torch.arange(16**3) * 7 % 16).reshape(1, 16, 16, 16)
# Several in one network, as a conversion takes seconds. A wrong one is named by `check_file`.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a constant in front": lambda: network(
        Do(lambda x: 1 - x), conv(), Do(lambda x: CONSTANT - F.relu(x)), conv(), Do(lambda x: 1 / (2 + F.relu(x))), conv(),
        Do(lambda x: CONSTANT / (1 + F.relu6(x))), conv(), Do(lambda x: torch.sub(CONSTANT, x, alpha=0.5)),
    ),
    "sizes": lambda: network(
        nn.ConvTranspose2d(16, 16, 4, 2, 1, groups=16), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.ConvTranspose2d(16, 16, 3, 2, 1, output_padding=1, groups=4), nn.BatchNorm2d(16), nn.ReLU(),
        Do(lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)), Do(lambda x: F.interpolate(x, scale_factor=1.5)),
        Do(lambda x: F.pad(x, (1, 1, 1, 1), value=-5.0)), Do(lambda x: x + F.adaptive_max_pool2d(x, 1)),
    ),
    "pieces": lambda: network(
        nn.Hardswish(), conv(), Gated(nn.Hardsigmoid()), conv(), nn.Hardswish(), nn.AvgPool2d(2), conv(),
        Do(lambda x: x * F.relu6(x + 3) / 6), conv(), Gated(Do(lambda x: torch.clamp(0.2 * x + 0.5, 0, 1))), conv(),
        Do(lambda x: x * 0.25 + 1.5), conv(), Do(lambda x: (x - 0.5) / 3), conv(), Do(lambda x: torch.cat([x * 0.5, x], 1)), conv32(),
        nn.SiLU(), conv(),
    ),
    "slopes": lambda: network(Slopes(1.2), nn.PReLU(16)),
    "choices": lambda: network(  # of two tensors, of places, and turned ones: TFLite's kernels have one scale for all of them
        conv(), Do(lambda x: torch.maximum(x, x.flip(1))), conv(), Do(lambda x: torch.minimum(x, x.flip(2, 3) * 2)), conv(),
        Do(lambda x: x * torch.sigmoid(x.amax(1, keepdim=True) - x.amin(1, keepdim=True))), conv(),
        Do(lambda x: torch.maximum(x, torch.stack(x.unbind(1)[::-1], 1))), conv(),
        Do(lambda x: x + F.cosine_similarity(x, x.flip(2, 1), 1)[:, None]), conv(), Do(lambda x: x.topk(16, 1).values), Blurred(), conv(),
    ),
    "copies": lambda: network(
        Do(lambda x: x[:, :8].repeat(1, 2, 1, 1)), conv(), Do(lambda x: x + x.mean((2, 3), keepdim=True).tile(1, 1, 16, 16)), conv(),
        Do(lambda x: x[:, :1, :, :1].repeat(1, 16, 1, 16)), conv(), Do(lambda x: x[:, :, :1].expand(-1, -1, 16, -1)), conv(),
    ),
    "paddings": lambda: network(
        nn.Conv2d(16, 16, 4, padding="same"), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding="valid", dilation=(1, 2)),
        nn.ConvTranspose2d(8, 8, 2, 2, 0, 1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 1, 2, 1, 1),
        nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=8), nn.MaxPool2d(2), nn.ConvTranspose2d(8, 16, 3, 2, 1, dilation=2),
    ),
    "orders": lambda: network(
        Do(lambda x: x.gather(1, BACK.expand(x.shape))), conv(), Do(lambda x: x.gather(2, MIXED.expand(x.shape))), conv(),
        Do(lambda x: x.topk(16, 2, largest=False).values + x.sort(3).values), conv(), Do(lambda x: x * x.median(1, True).values), conv(),
        Do(lambda x: x.cummax(3).values - x.cummin(2).values), conv(), Do(lambda x: x - x.aminmax(dim=1, keepdim=True)[0]), conv(),
        Do(lambda x: x + x.kthvalue(2, 1, True).values), nn.AdaptiveMaxPool2d((7, 4)),
    ),
    "bicubic": lambda: network(
        Do(lambda x: F.interpolate(x, size=(13, 10), mode="bicubic")), conv(), Do(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic")),
    ),
    "norms": lambda: network(
        Do(lambda x: F.normalize(x, dim=1)), nn.utils.parametrizations.weight_norm(conv()), nn.ReLU(), ChannelsFirstNorm(),
        ConvNeXtBlock(16), ConvNeXtBlock(16), ChannelsFirstNorm(), nn.BatchNorm2d(16),
    ),
}  # fmt: skip


def folded(net: nn.Module, x: np.ndarray) -> fx.GraphModule:
    graph = trace(net, NORMALIZATION.normalize(torch.from_numpy(x[:2])))
    simplify(graph)
    fold_batchnorm(graph)
    cropped_paddings(graph)
    return graph


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", cases(NETWORKS, {"choices", "copies"}))
def test_float_and_integer_files_answer_as_torch_does(name: str, tmp_path: Path) -> None:
    x = samples()
    net = NETWORKS[name]()
    normal = NORMALIZATION.normalize(torch.from_numpy(x))
    graph = folded(net, x)
    with torch.no_grad():
        assert np.abs(graph(normal).numpy() - net(normal).numpy()).max() < 1e-4, "the graph is the network"
    for runtime in ("onnx", "tflite"):
        check_file(convert.written(runtime, graph, NORMALIZATION, SHAPE, False), runtime, graph, NORMALIZATION, x, quantized=False)
    round_to_integers(graph, NORMALIZATION, normal)
    with torch.no_grad():
        reference = graph(normal).numpy()
    scale, zero_point = quantization.output_qparams(graph)[0] or (0.0, 0)
    for runtime, offset in (("onnx", 0), ("tflite", 128)):
        given = TensorSpec(dtype="int8" if offset else "uint8", shape=list(SHAPE))
        answered = TensorSpec(dtype="float32", shape=[4])
        if offset:
            answered = TensorSpec(dtype="int8", shape=[4], quantization=Quantization(scale=scale, zero_point=zero_point - offset))
        variant = Variant(name=runtime, runtime=runtime, precision=Precision.INT8, file="f", inputs=[given], outputs=[answered])
        found = open_runtime(variant, convert.written(runtime, graph, NORMALIZATION, SHAPE, True)).run(x)
        assert np.abs(found - reference).max() <= 3.01 * scale, runtime
        if name in ("pieces", "slopes"):  # no operation of it is left in float; TFLite takes the counts as they are
            assert not kernels.count(variant, convert.written(runtime, graph, NORMALIZATION, SHAPE, True)).floating, runtime


def test_slopes_of_channels_are_layers() -> None:
    x = samples(4)
    normal = NORMALIZATION.normalize(torch.from_numpy(x))
    for most, layers in ((1.0, 2), (1.1, 4)):
        net = network(Slopes(most))
        graph = folded(net, x)
        targets = [str(node.target) for node in graph.graph.nodes]
        plain = [str(node.target) for node in trace(net, normal).graph.nodes].count("aten.conv2d.default")
        assert targets.count("aten.conv2d.default") - plain == layers and "aten.prelu.default" not in targets
        assert targets.count("aten.leaky_relu.default") == 1
        with torch.no_grad():
            assert torch.allclose(graph(normal), net(normal), atol=1e-4)


@pytest.mark.parametrize("form", ["div", "mul", "half first", "whole"])
def test_gelu_by_parts_is_gelu_again(form: str) -> None:
    forms = {
        "div": lambda x: x * (torch.erf(x / 2**0.5) + 1) * 0.5,
        "mul": lambda x: 0.5 * x * (1 + torch.erf(x * 0.7071067811865476)),
        "half first": lambda x: (x * 0.5) * (torch.erf(x / 1.4142135381698608) + 1.0),
        "whole": F.gelu,
    }
    graph = folded(network(Do(forms[form]), Do(lambda x: x * (1 + torch.erf(x)))), samples(4))
    targets = [str(node.target) for node in graph.graph.nodes]
    assert targets.count("aten.gelu.default") == 1 and targets.count("aten.erf.default") == 1
    x = NORMALIZATION.normalize(torch.from_numpy(samples(4)))
    with torch.no_grad():
        assert torch.allclose(graph(x), network(Do(F.gelu), Do(lambda x: x * (1 + torch.erf(x))))(x), atol=1e-5)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm by the batch": (lambda: network(nn.BatchNorm2d(16, track_running_stats=False)), "layer 1: BatchNorm without running"),
    "BatchNorm by the batch, in forward()": (lambda: network(Do(lambda x: F.batch_norm(x, None, None, training=True))), "layer 1: BatchNorm"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_device_can_do_is_refused_with_its_layer(name: str) -> None:
    net, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        folded(net(), samples(4))


def test_padding_below_everything_belongs_before_a_max_pooling() -> None:
    graph = folded(network(Do(lambda x: F.pad(x, (1, 1, 1, 1), value=float("-inf")).softmax(1))), samples(4))
    with pytest.raises(ModelError, match=r"layer 1: pads with minus infinity"):
        quantization.plan(graph, NORMALIZATION.input_qparams)


def test_a_file_that_is_wrong_is_refused_with_the_first_layer_that_is() -> None:
    """The file of another network than the one it is held against: they differ from the third operation on."""
    x = samples(8)
    right, other = folded(network(conv(), Do(torch.sigmoid)), x), folded(network(conv(), Do(torch.tanh)), x)
    wrong = convert.written("onnx", other, NORMALIZATION, SHAPE, False)
    with pytest.raises(ModelError, match=r"the onnx-float32 file is not what the network is: it is .* off"):
        check_file(wrong, "onnx", right, NORMALIZATION, x, quantized=False)
    check_file(wrong, "onnx", other, NORMALIZATION, x, quantized=False)


@pytest.mark.long
def test_what_a_converter_cannot_do_is_named() -> None:
    graph = folded(network(conv(), Do(lambda x: x + torch.special.i0e(x)), conv()), samples(4))
    with pytest.raises(ModelError, match=r"export to ONNX failed at layer 2 \(special_i0e\)"):
        convert.written("onnx", graph, NORMALIZATION, SHAPE, False)


def test_a_trailing_softmax_is_taken_off_and_probabilities_stay() -> None:
    x = samples(8)
    normal = NORMALIZATION.normalize(torch.from_numpy(x))
    for last in (nn.Softmax(1), nn.LogSoftmax(-1)):
        net = nn.Sequential(network(), last).eval()
        graph = folded(net, x)
        with torch.no_grad():
            assert torch.allclose(graph(normal), net(normal), atol=1e-5), "left where it may be the answer itself"
            trailing_softmax(graph)
            said, wanted = graph(normal), net[0](normal)
        assert torch.allclose(said, wanted, atol=1e-5)


@pytest.mark.parametrize(("form", "least"), [("own", -3.0), ("behind a layer", -math.inf), ("read elsewhere", -math.inf)])
def test_a_range_begins_where_its_own_gate_is_zero(form: str, least: float) -> None:
    """Behind another layer a gate is not zero where x is below -3, and who reads x itself sees all of it."""
    layer = conv()
    forms = {
        "own": F.hardswish, "behind a layer": lambda x: x * layer(F.relu6(x + 3)), "read elsewhere": lambda x: F.hardswish(x) + x,
    }  # fmt: skip
    graph = folded(network(conv(), Do(forms[form])), samples(4))
    first = [node for node in graph.graph.nodes if str(node.target).startswith("aten.conv2d")][1]
    assert least_read(graph, first) == least
