"""Networks of many shapes through quantization and both exporters; one set of scales in both files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.arrays import Array
from edgeloop_contract.errors import ModelError
from edgeloop_contract.manifest import Precision, Quantization, TensorSpec, Variant
from edgeloop_exporters import kernels, parity
from edgeloop_exporters.convert import to_onnx, to_tflite
from edgeloop_exporters.figures import LayerDifference
from edgeloop_exporters.graph import fold_batchnorm, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.quantization import QuantizationPlan, choose_ranges, insert, output_qparams, plan, set_mode, settle
from edgeloop_exporters.simplification import simplify
from edgeloop_pipeline.data.normalization import input_normalization
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from matrix import cases

UINT8 = InputNormalization("uint8", (73.0,), (90.0,))
COLOURS = InputNormalization(
    "uint8", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
)  # as a checkpoint's card has it, in counts
INT16 = InputNormalization("int16", (0.0, 10.0, -5.0, 2.0), (900.0, 700.0, 500.0, 100.0))
FLOAT = InputNormalization("float32", (0.5,), (2.0,))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.a(x) + x)
        scores: Tensor = self.scores(self.pool(self.depthwise(x)).flatten(1))
        return scores


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
        self.pool = nn.MaxPool2d(2)
        self.scores = nn.Linear(8 * 6 * 6, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.pool(torch.cat([self.a(x).relu(), self.b(x)], 1)).flatten(1))
        return scores


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(4, 8, 5, 2, 2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1, groups=8))
        self.scores = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.scores(self.layers(x).mean(-1))
        return scores


class Squeeze(nn.Module):
    """Squeeze-and-excite with a sigmoid, and an all-zero channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.conv.weight.data[3] = 0
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.scores = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        x = x * torch.sigmoid(self.excite(self.squeeze(self.pool(x)).relu()))
        scores: Tensor = self.scores(self.pool(x).flatten(1))
        return scores


class Bent(nn.Module):
    """Hard-swishes, a factor for each channel and a gate: constants beside pictures, of no axis, one and three."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.factors = nn.Parameter(torch.linspace(0.5, 1.5, 8).reshape(8, 1, 1))
        self.scores = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.a(x))
        x = x + self.factors * nn.functional.hardswish(self.b(x))
        x = x * nn.functional.hardsigmoid(self.c(x))
        scores: Tensor = self.scores((x / 3).mean((2, 3)))
        return scores


class Attentive(nn.Module):
    """Attention of places (CBAM): a second layer of few channels, with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scores = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(2, 1, 7, padding=3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        x = x * torch.sigmoid(self.b(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        scores: Tensor = self.scores(x.mean((2, 3)))
        return scores


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 5))


def colours() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], InputNormalization, tuple[int, ...]]] = {
    "residual, depthwise, relu6": (Residual, UINT8, (12, 12, 1)),
    "concat, max pool": (Concat, UINT8, (12, 12, 1)),
    "one dimension, int16": (Series, INT16, (32, 4)),
    "squeeze and excite, zero channel": (Squeeze, UINT8, (12, 12, 1)),
    "hard-swish, factors of channels, a gate": (Bent, UINT8, (12, 12, 1)),
    "attention of places": (Attentive, COLOURS, (24, 24, 3)),
    "one normalization a colour": (colours, COLOURS, (12, 12, 3)),
    "dense, float": (dense, FLOAT, (48, 1)),
}


def made(
    build: Callable[[], nn.Module], normalization: InputNormalization, shape: tuple[int, ...]
) -> tuple[torch.fx.GraphModule, QuantizationPlan, Array]:
    torch.manual_seed(0)
    network = build()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    rng = np.random.default_rng(0)
    if normalization.dtype == "uint8":
        raw = rng.integers(0, 256, (48, *shape)).astype(np.uint8)
    else:
        raw = (rng.normal(0, 1, (48, *shape)) * np.array(normalization.std)).astype(normalization.dtype)
    x = normalization.normalize(torch.from_numpy(raw))
    with torch.no_grad():
        before = network.eval()(x)
    graph = trace(network, x[:2])
    simplify(graph)
    fold_batchnorm(graph)
    with torch.no_grad():
        assert torch.allclose(graph(x), before, atol=1e-4)
    decided = plan(graph, normalization.input_qparams)
    insert(graph, decided)
    set_mode(graph, "observe", "off")
    with torch.no_grad():
        graph(x)
    choose_ranges(graph)
    settle(graph)
    set_mode(graph, "quantize", "quantize")
    return graph, decided, raw


@pytest.mark.parametrize(
    "name",
    cases(NETWORKS, ("hard-swish, factors of channels, a gate", "attention of places", "one dimension, int16", "dense, float")),
)
def test_both_files_say_what_torch_says(name: str, tmp_path: Path) -> None:
    build, normalization, shape = NETWORKS[name]
    graph, decided, raw = made(build, normalization, shape)
    to_onnx(graph, normalization, shape, tmp_path / "a.onnx", quantized=True)
    to_tflite(graph, normalization, shape, tmp_path / "a.tflite", quantized=True)
    ((scale, zero_point),) = output_qparams(graph)
    with torch.no_grad():
        scores = {"torch": graph(normalization.normalize(torch.from_numpy(raw))).numpy()}
    for runtime in ("onnx", "tflite"):
        output = TensorSpec(dtype="float32", shape=[5])
        entry = TensorSpec(dtype="int16" if normalization.dtype == "int16" else "float32", shape=list(shape))
        if runtime == "tflite":
            output = TensorSpec(dtype="int8", shape=[5], quantization=Quantization(scale=scale, zero_point=zero_point - 128))
        if normalization.dtype == "uint8":
            counts = runtime == "tflite" and normalization.input_qparams is not None
            entry = TensorSpec(dtype="int8" if counts else "uint8", shape=list(shape))
        variant = Variant(
            name=f"{runtime}-int8", runtime=runtime, precision=Precision.INT8, file="a", inputs=[entry], outputs=[output]
        )  # type: ignore[arg-type]
        model = (tmp_path / f"a.{runtime}").read_bytes()
        scores[runtime] = open_runtime(variant, model).run(raw)
        counted = kernels.count(variant, model)
        assert not (name.startswith("hard-swish") and counted.moves.get("TRANSPOSE")), counted  # constants beside pictures
        assert not [op for op in counted.floating if op.upper().startswith(("CONV", "GEMM", "FULLY", "DEPTHWISE", "MATMUL"))], (
            counted
        )
        # The file carries the plan's own scales: every layer that the runtime shows is recognised by them.
        rows = parity.layers(graph, {}, normalization, raw[:4], runtime, model)
        assert len(rows) >= len(decided.weights)
        # TFLite's own kernels (its layers are hidden under XNNPACK) round differently; the scores below are XNNPACK's.
        assert max(row.max_lsb for row in rows) <= (2 if runtime == "onnx" else 9), rows
    for pair in parity.agreement(scores, np.array([scale])):
        assert pair.max_lsb <= 2, pair
        assert pair.top1_share >= 0.97, pair


def test_first_difference_is_in_graph_order() -> None:
    rows = [LayerDifference(f"p{i}", f"l{i}", "onnx", lsb, 0.0) for i, lsb in enumerate([0, 1, 4, 2, 9])]
    found = parity.first_difference(rows, 1)
    assert found is not None
    assert found.point == "p2"
    assert parity.first_difference(rows, 9) is None


class Choosy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class TwoHeads(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x)
        return y


@pytest.mark.parametrize(
    ("network", "message"), [(Choosy(), "cannot be traced"), (TwoHeads(), "returns 2 outputs"), (Broken(), "layer head")]
)
def test_untraceable(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(network, torch.randn(2, 3))


def test_uint8_pictures_take_what_a_checkpoint_was_fed() -> None:
    images = np.zeros((4, 8, 8, 3), np.uint8)
    part = Samples(images, np.array([0, 1, 0, 1]), np.arange(4), np.arange(4))

    def front(mean: tuple[float, ...], std: tuple[float, ...]) -> InputNormalization:
        return input_normalization(PreparedSplits(("a", "b"), part, part, part, normalize=(mean, std)))

    assert front(COLOURS.mean, COLOURS.std) == COLOURS
    assert front((127.0,), (128.0,)).input_qparams == (1 / 128, 127)
    assert front((127.0,) * 3, (128.0,) * 3).input_qparams == (1 / 128, 127)  # the same for all
    assert front((127.5,), (128.0,)).input_qparams is None and COLOURS.input_qparams is None
    with pytest.raises(ModelError, match="2 means and 1 stds for 3 channels"):
        front((1.0, 2.0), (1.0,))
