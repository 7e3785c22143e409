"""A file is held to the network's integers, and where rounding alone decides an answer, to what rounding does to torch's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters import convert, file_check
from edgeloop_exporters.graph import trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.quantizers import ActivationQuantizer
from rounded import rounded

NORMALIZATION = InputNormalization("uint8", (100.0,), (40.0,))
SHAPE = (12, 12, 3)


class Steep(nn.Module):
    """A sigmoid of a difference that rounding decides, or an ordinary network."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.gain = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 1), gain

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.last(self.first(x).relu()) * self.gain)


def quantized(gain: float) -> tuple[fx.GraphModule, np.ndarray]:
    samples = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
    return rounded(Steep(gain), NORMALIZATION, samples), samples


def off_by_rounding(graph: fx.GraphModule, samples: np.ndarray, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file answer as torch would with this share of the last layer's values one step off."""
    generator = torch.Generator().manual_seed(7)
    first = graph.get_submodule("quantizers.conv2d_1")

    def move(quantizer: nn.Module, _: object, values: Tensor) -> Tensor:
        assert isinstance(quantizer, ActivationQuantizer)
        return values + quantizer.qparams()[0] * (torch.rand(values.shape, generator=generator) < share)

    hook = first.register_forward_hook(move)
    with torch.no_grad():
        scores = graph(NORMALIZATION.normalize(torch.from_numpy(samples))).numpy()
    hook.remove()
    monkeypatch.setattr(file_check, "_scores", lambda *_: scores)


@pytest.mark.parametrize(("gain", "share", "passes"), [(200.0, 0.2, True), (200.0, 1.0, False), (1.0, 0.2, True)])
def test_an_answer_that_rounding_decides(gain: float, share: float, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, samples = quantized(gain)
    content = convert.written("onnx", graph, NORMALIZATION, SHAPE, True)
    off_by_rounding(graph, samples, share, monkeypatch)
    monkeypatch.setattr(file_check, "faulty_layer", lambda *_: "")
    if passes:
        file_check.check_file(content, "onnx", graph, NORMALIZATION, samples, quantized=True)
        return
    with pytest.raises(ModelError, match="is not what the network is"):
        file_check.check_file(content, "onnx", graph, NORMALIZATION, samples, quantized=True)


def test_a_steep_answer_is_far_off_by_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second look the first case of above would be refused."""
    graph, samples = quantized(200.0)
    off_by_rounding(graph, samples, 0.2, monkeypatch)
    monkeypatch.setattr(file_check, "_is_rounding", lambda *_: False)
    monkeypatch.setattr(file_check, "faulty_layer", lambda *_: "")
    with pytest.raises(ModelError, match="steps of 255 off"):
        file_check.check_file(b"", "onnx", graph, NORMALIZATION, samples, quantized=True)


@pytest.mark.parametrize(("gain", "shift", "right"), [(1e5, 2e-7, True), (1e5, 1e-5, False), (1.0, 0.02, False)])
def test_a_float_file_may_be_as_far_off_as_the_last_bits_are(gain: float, shift: float, right: bool, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (8, *SHAPE), dtype=np.uint8)
    networks = [Steep(gain).eval() for _ in range(2)]
    with torch.no_grad():
        networks[1].last.bias.add_(shift)  # type: ignore[union-attr]
    wanted, other = (trace(network, NORMALIZATION.normalize(torch.from_numpy(samples[:2]))) for network in networks)
    convert.to_onnx(other, NORMALIZATION, SHAPE, tmp_path / "net.onnx", quantized=False)
    content = (tmp_path / "net.onnx").read_bytes()
    if right:
        file_check.check_file(content, "onnx", wanted, NORMALIZATION, samples, quantized=False)
        return
    with pytest.raises(ModelError, match="the onnx-float32 file is not what the network is: it is"):
        file_check.check_file(content, "onnx", wanted, NORMALIZATION, samples, quantized=False)
