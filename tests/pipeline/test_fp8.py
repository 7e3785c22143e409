"""FP8: scales, layers, checkpoints, and Transformer Engine where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.training import checkpoints, fp8
from edgeloop_pipeline.training.settings import Float8
from training_parts import train


def test_fp8_by_transformer_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in: what is converted, what it is told, and that the network is plain again afterwards."""
    import sys
    from contextlib import contextmanager
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from accelerate.state import AcceleratorState

    told: list[object] = []
    linear = type(
        "Linear", (torch.nn.Linear,), {"__init__": lambda s, i, o, bias, params_dtype: torch.nn.Linear.__init__(s, i, o, bias)}
    )
    norm = type("LayerNorm", (torch.nn.LayerNorm,), {})

    @contextmanager
    def autocast(enabled: bool, fp8_recipe: object):
        told.append((enabled, fp8_recipe))
        yield

    fake = {name: ModuleType(name) for name in (
        "transformer_engine", "transformer_engine.pytorch", "transformer_engine.pytorch.fp8", "transformer_engine.common",
        "transformer_engine.common.recipe",
    )}  # fmt: skip
    fake["transformer_engine.pytorch"].__dict__.update(Linear=linear, LayerNorm=norm, fp8_autocast=autocast)
    fake["transformer_engine"].__dict__.update(pytorch=fake["transformer_engine.pytorch"], common=fake["transformer_engine.common"])
    fake["transformer_engine.pytorch.fp8"].__dict__.update(check_mxfp8_support=lambda: (False, "no"))
    fake["transformer_engine.common.recipe"].__dict__.update(
        Format=type("F", (), {"HYBRID": "hybrid"}), DelayedScaling=lambda **k: k
    )
    fake["transformer_engine.common"].__dict__.update(recipe=fake["transformer_engine.common.recipe"])
    for name, module in fake.items():
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for module in ("transformer_engine", "dataclasses"):
        monkeypatch.setattr(f"accelerate.utils.{module}.is_transformer_engine_available", lambda: True)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with fp8.by_engine(net, Float8(history=8, policy="most_recent", margin=1)) as layers:
        assert layers == ["0", "2"] and type(net[0]) is linear
        net.train()(torch.zeros(2, 16))
    enabled, recipe = told[-1]
    assert enabled and recipe["amax_history_len"] == 8 and recipe["amax_compute_algo"] == "most_recent" and recipe["margin"] == 1
    assert type(net[0]) is torch.nn.Linear and all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    net(torch.zeros(2, 16))
    assert len(told) == 1
    AcceleratorState._reset_state(reset_partial_state=True)
    assert not fp8.engine_serves(Float8())  # no such GPU here


class TestFloat8:
    """Delayed scaling against float32 and against scaling by the tensor itself."""

    def scaling(self, **settings: Any) -> fp8.Scaling:
        return fp8.Scaling(Float8(**settings), torch.device("cpu"))

    def test_scale_is_the_windows_maximum(self) -> None:
        scaling = self.scaling(history=3)
        for amax in (4.0, 1.0, 2.0):
            scaling.rounded(torch.tensor([amax, -0.5]), fp8.INPUT)
            scaling.advance()
        assert float(scaling.scale[fp8.INPUT]) == 448 / 4
        scaling.rounded(torch.tensor([1.0]), fp8.INPUT)
        scaling.advance()  # the 4 has left the window of three
        assert float(scaling.scale[fp8.INPUT]) == 448 / 2

    def test_most_recent_and_margin(self) -> None:
        scaling = self.scaling(history=3, policy="most_recent", margin=2)
        for amax in (4.0, 1.0):
            scaling.rounded(torch.tensor([amax]), fp8.GRADIENT)
            scaling.advance()
        assert float(scaling.scale[fp8.GRADIENT]) == 57344 / 1 / 4

    def test_a_jump_saturates_once_and_is_counted(self) -> None:
        scaling = self.scaling()
        scaling.rounded(torch.tensor([1.0]), fp8.INPUT)
        scaling.advance()
        stored, scale = scaling.rounded(torch.tensor([8.0]), fp8.INPUT)
        assert float(stored.float() / scale) == 1.0  # saturated, and not NaN
        scaling.advance()
        assert scaling.saturated.tolist() == [1, 0, 0]
        stored, scale = scaling.rounded(torch.tensor([8.0]), fp8.INPUT)
        assert float(stored.float() / scale) == 8.0

    def test_dynamic_scaling_never_saturates(self) -> None:
        scaling = self.scaling(scaling="dynamic")
        for amax in (1.0, 100.0):
            stored, scale = scaling.rounded(torch.tensor([amax]), fp8.INPUT)
            scaling.advance()
            assert float(stored.float() / scale) == pytest.approx(amax)

    @pytest.mark.parametrize("amax", [0.0, float("inf"), float("nan")])
    def test_a_useless_maximum_keeps_the_scale(self, amax: float) -> None:
        kept = fp8.wanted_scale(torch.tensor(amax), fp8.FORWARD, 0, torch.tensor(3.0))
        assert float(kept) == 3.0

    def test_scaled_products_are_the_dequantized_ones(self) -> None:
        torch.manual_seed(0)
        a, b = torch.randn(32, 48), torch.randn(48, 16)
        scale_a, scale_b = 448 / a.abs().max(), 448 / b.abs().max()
        qa, qb = (a * scale_a).to(fp8.FORWARD), (b * scale_b).to(fp8.FORWARD)
        wanted = (qa.float() / scale_a) @ (qb.float() / scale_b)
        assert torch.allclose(fp8.product(qa, qb, scale_a, scale_b), wanted, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("layer", [nn.Linear(48, 32), nn.Conv2d(8, 16, 3, padding=1), nn.Conv1d(8, 8, 3, groups=2)])
    def test_layers_are_near_float32(self, layer: nn.Module) -> None:
        shape = {nn.Linear: (4, 16, 48), nn.Conv2d: (4, 8, 6, 6), nn.Conv1d: (4, 8, 10)}[type(layer)]
        torch.manual_seed(0)
        x = torch.randn(shape, requires_grad=True)
        layer.train()
        answer = layer(x)
        upstream = torch.randn_like(answer)
        wanted = [answer, *torch.autograd.grad(answer, [x, *layer.parameters()], upstream)]
        net = nn.Sequential(nn.Linear(1, 1), layer, nn.Linear(1, 1))
        with fp8.converted(net, Float8()) as names:
            assert names == ["1"]
            answer = layer(x)
            got = [answer, *torch.autograd.grad(answer, [x, *layer.parameters()], upstream)]
            assert layer.scaling.history[:, 0].min() > 0
        assert type(layer) in (nn.Linear, nn.Conv2d, nn.Conv1d)
        for ours, exact in zip(got, wanted, strict=True):
            assert float((ours - exact).detach().norm() / exact.detach().norm()) < 0.08

    def test_training_in_fp8_learns_and_ships_the_plain_network(self, splits: PreparedSplits, tmp_path: Path) -> None:
        plain, exact = train(splits, tmp_path / "a", epochs=4)
        net, fitted = train(splits, tmp_path / "b", epochs=4, precision="fp8")
        assert fitted.facts.float8.layers == 2 and fitted.facts.float8.history_bytes == 2 * 3 * 16 * 4
        assert net.state_dict().keys() == plain.state_dict().keys()
        assert fitted.best.validation_accuracy >= exact.best.validation_accuracy - 0.05

    def test_the_history_is_in_the_checkpoint(self, splits: PreparedSplits, tmp_path: Path) -> None:
        train(splits, tmp_path, precision="fp8")
        state = checkpoints.read(tmp_path)
        assert state is not None and state["network"]["1.0.scaling.history"].abs().sum() > 0
