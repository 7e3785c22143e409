"""Training: every technique changes what it should and nothing else."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.results.training import BatchTrial
from edgeloop_pipeline.tasks.losses import cross_entropy
from edgeloop_pipeline.training import checkpoints, fp8, memory, schedules, search
from edgeloop_pipeline.training.batches import Batches, Loader, Part
from edgeloop_pipeline.training.fit import Fitted, fit
from edgeloop_pipeline.training.precision import Hardware, Precision, choose
from edgeloop_pipeline.training.settings import FitSettings, Float8
from edgeloop_pipeline.training.steps import gradients

NORMALIZATION = InputNormalization("uint8", (128.0,), (64.0,))


def images(count: int, seed: int) -> Samples:
    """Bright squares in one of three places, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = rng.integers(0, 140, (count, 12, 12, 1))
    for i, label in enumerate(labels):
        values[i, 4 * label : 4 * label + 4, 2:8] += 70
    rows = np.arange(count)
    return Samples(values.astype(np.uint8), labels.astype(np.int64), rows, rows)


@pytest.fixture(scope="module")
def splits() -> PreparedSplits:
    return PreparedSplits(("top", "middle", "bottom"), images(300, 0), images(90, 1), images(90, 2))


def network(norm: bool = True, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()),
        nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 3),
    )  # fmt: skip


def noise(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return (batch + torch.randint(0, 20, batch.shape, generator=generator, dtype=torch.uint8)).clamp(max=255)


def train(splits: PreparedSplits, folder: Path, net: nn.Module | None = None, **settings: Any) -> tuple[nn.Module, Fitted]:
    net = net if net is not None else network()
    given = {
        "epochs": 2,
        "batch": 50,
        "learning_rate": 0.05,
        "precision": "float32",
        "channels_last": True,
        "workers": 0,
        **settings,
    }
    folder.mkdir(exist_ok=True, parents=True)
    return net, fit(net, NORMALIZATION, splits, FitSettings(**given), cross_entropy(0.0), seed=3, scratch=folder, augment=noise)


def furthest(a: nn.Module, b: nn.Module) -> float:
    return max(
        float((x.float() - y.float()).abs().max()) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_accumulation_is_the_large_batch(splits: PreparedSplits, tmp_path: Path) -> None:
    whole, _ = train(splits, tmp_path / "a", network(norm=False))
    parts, _ = train(splits, tmp_path / "b", network(norm=False), accumulate=5)
    assert furthest(whole, network(norm=False)) > 1e-2
    assert furthest(whole, parts) < 1e-5


def test_recomputed_activations_change_nothing(splits: PreparedSplits, tmp_path: Path) -> None:
    plain, _ = train(splits, tmp_path / "a", network(dropout=0.3))
    recomputed, fitted = train(splits, tmp_path / "b", network(dropout=0.3), checkpoint_activations=True)
    assert fitted.facts.recomputed_units == 2
    assert furthest(plain, recomputed) == 0  # running statistics too
    assert "forward" not in vars(recomputed[0])


def test_recomputation_keeps_less() -> None:
    net, x = network(), torch.randn(8, 1, 12, 12)
    plain = memory.saved_bytes(net, x, torch.enable_grad)
    before = copy.deepcopy(net.state_dict())
    assert 0 < memory.saved_bytes(net, x, torch.enable_grad, recompute=True) < 0.6 * plain
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_makes_the_same_batches(splits: PreparedSplits, tmp_path: Path, workers: int) -> None:
    alone, _ = train(splits, tmp_path / "a")
    helped, fitted = train(splits, tmp_path / "b", workers=workers)
    assert fitted.facts.loader.workers == workers
    assert furthest(alone, helped) == 0


def test_loader_adds_workers_when_the_training_thread_waits(splits: PreparedSplits) -> None:
    def slow(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import time

        time.sleep(0.02)
        return noise(batch, generator)

    said: list[str] = []
    batches = Batches(splits.train, NORMALIZATION, 10, 1, 0, slow)
    loader = Loader(batches, 10, None, None, 2, said.append)
    loader.start(0, 0)
    expected = [batches[divmod(i, batches.steps)][0][0] for i in range(60)]
    for i, wanted in enumerate(expected):
        place = divmod(i, batches.steps)
        assert torch.equal(loader.next(*place)[0][0], wanted)
        import time

        time.sleep(0.01)
    loader.stop()
    assert loader.workers >= 1 and said and len(loader.trials) >= 2


def test_loader_doubles_what_is_ready_when_workers_are_at_their_most(splits: PreparedSplits) -> None:
    loader = Loader(Batches(splits.train, NORMALIZATION, 10, 1, 0), 10, None, None, 2, lambda _: None)
    assert loader._more((0, 4)) == (1, 4) and loader._more((2, 4)) == (2, 8) and loader._more((2, 8)) is None
    fixed = Loader(Batches(splits.train, NORMALIZATION, 10, 1, 0), 10, 1, 6, 2, lambda _: None)
    assert fixed._more((1, 6)) is None and not fixed._tuning


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


def test_processes_share_a_batch(splits: PreparedSplits) -> None:
    whole = Batches(splits.train, NORMALIZATION, 150, 1, 0, noise)
    halves = [Batches(splits.train, NORMALIZATION, 150, 1, 0, noise, part=Part(rank, 2)) for rank in range(2)]
    x, labels = whole[1, 1][0]
    parts = [half[1, 1][0] for half in halves]
    assert torch.equal(torch.cat([p[0] for p in parts]), x) and torch.equal(torch.cat([p[1] for p in parts]), labels)


def test_mixup_mixes_labels_as_it_mixes_images(splits: PreparedSplits) -> None:
    x, labels = Batches(splits.train, NORMALIZATION, 100, 1, 0, mixup=0.4, classes=3)[0, 0][0]
    assert labels.shape == (100, 3) and torch.allclose(labels.sum(1), torch.ones(100))
    assert ((labels > 0).sum(1) == 2).any()
    assert x.dtype == torch.float32


class Killed(BaseException):
    pass


def test_resumes_exactly_after_twenty_kills(splits: PreparedSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloop_pipeline.training import loop

    same = {"dropout": 0.2}
    undisturbed, wanted = train(splits, tmp_path / "a", network(**same), epochs=6)
    real, rng, left, kills = loop.gradients, random.Random(0), [0], 0

    def fragile(*arguments: Any) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(loop, "gradients", fragile)
    while True:
        left[0] = rng.randint(1, 2) if kills < 20 else 1000
        try:
            resumed, got = train(splits, tmp_path / "b", network(**same), epochs=6, checkpoint_steps=1)
            break
        except Killed:
            kills += 1
    assert kills == 20
    assert furthest(undisturbed, resumed) == 0
    assert got.curve == wanted.curve


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(
    splits: PreparedSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    _, fitted = train(splits, tmp_path / "a")
    assert "disk is full" in fitted.facts.notes[0]
    assert list((tmp_path / "a").iterdir()) == []


def test_a_damaged_checkpoint_is_none(tmp_path: Path) -> None:
    (tmp_path / checkpoints.FILE).write_bytes(b"PK\x03\x04 cut short")
    assert checkpoints.read(tmp_path) is None


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "plateau", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adafactor"])
def test_schedules_and_optimizers_learn(splits: PreparedSplits, tmp_path: Path, schedule: str, optimizer: str) -> None:
    rate = 0.05 if optimizer == "sgd" else 0.01
    _, fitted = train(splits, tmp_path, epochs=4, schedule=schedule, optimizer=optimizer, learning_rate=rate)
    assert fitted.best.validation_accuracy > 0.6


def test_cosine_warms_up_and_falls() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    schedule = schedules.schedule_of(optimizer, FitSettings(schedule="cosine", warm_up=0.2), 1.0, 10)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.1


def test_patience_stops_early(splits: PreparedSplits, tmp_path: Path) -> None:
    _, fitted = train(splits, tmp_path, epochs=60, patience=2, schedule="constant")
    assert len(fitted.curve) < 60 and fitted.best.epoch == len(fitted.curve) - 2
    assert "2 epochs without a better one" in fitted.facts.notes[0]


def test_a_loss_that_is_not_finite_is_one_sentence(splits: PreparedSplits, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lower learning_rate"):
        train(splits, tmp_path, learning_rate=1e9, schedule="constant", epochs=5)


CPU = Hardware("CPU", bf16_fast=True, fp16_fast=False)
OLD = Hardware("CPU", bf16_fast=False, fp16_fast=False)


@pytest.mark.parametrize(
    ("wanted", "hardware", "name", "said"),
    [
        ("auto", CPU, "bf16", "bf16 instructions"),
        ("auto", OLD, "float32", "without bf16"),
        ("auto", Hardware("GPU", False, True), "fp16", "without bf16"),
        ("fp16", CPU, "bf16", "no fp16 instructions: the nearest"),
        ("fp16", OLD, "float32", "no fp16 instructions: the nearest"),
        ("fp16", Hardware("GPU", True, True), "fp16", "asked for"),
        ("fp8", CPU, "fp8", "the reference runs"),
        ("bf16", OLD, "bf16", "costs time"),
    ],
)
def test_what_the_hardware_cannot_do_is_said(wanted: str, hardware: Hardware, name: str, said: str) -> None:
    chosen, why = choose(wanted, hardware)
    assert chosen == name and said in why


def test_loss_scaling_skips_a_step_that_overflows(splits: PreparedSplits) -> None:
    net = network()
    precision = Precision("fp16", "", "cpu")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    parts = Batches(splits.train, NORMALIZATION, 50, 1, 0)[0, 0]
    before = copy.deepcopy(net.state_dict())
    gradients(net, parts, 50, lambda *given: cross_entropy(0.0)(*given) * 1e38, precision)
    assert not precision.step(optimizer, net, 0.0) and precision.skipped == 1
    assert torch.equal(net[0][0].weight, before["0.0.weight"])
    scale = precision.scaler.get_scale()
    gradients(net, parts, 50, cross_entropy(0.0), precision)
    assert precision.step(optimizer, net, 1.0) and precision.scaler.get_scale() == scale < 65536
    assert not torch.equal(net[0][0].weight, before["0.0.weight"])


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


class TestSearch:
    def test_the_usual_precision_is_left_only_for_something_clearly_faster(self) -> None:
        times = {("bf16", True): 10.0, ("bf16", False): 12.0, ("float32", True): 9.0, ("float32", False): 20.0}
        assert search.chosen_layout(times, ("bf16", True)) == ("bf16", True)
        assert search.chosen_layout({**times, ("float32", False): 5.0}, ("bf16", True)) == ("float32", False)

    def test_precision_and_layout_are_measured(self, splits: PreparedSplits, tmp_path: Path) -> None:
        _, fitted = train(splits, tmp_path, precision="auto", channels_last="auto")
        assert set(fitted.facts.search.layouts) >= {"float32", "float32 channels last"}
        assert fitted.precision.startswith(("bf16", "float32"))

    def test_smallest_batch_that_is_as_good(self) -> None:
        speeds = {16: 100.0, 32: 180.0, 64: 198.0, 128: 200.0}
        assert search.chosen_batch([BatchTrial(b, s, 0) for b, s in speeds.items()]) == 64

    def test_memory_ceiling_ends_the_search(self, splits: PreparedSplits, tmp_path: Path) -> None:
        _, fitted = train(splits, tmp_path, batch="auto", max_memory_bytes=1_000_000)
        trials = fitted.facts.search.batches
        assert "the ceiling is" in trials[-1].why and fitted.facts.batch < trials[-1].batch

    def test_survives_out_of_memory(self, splits: PreparedSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = search._speed

        def scarce(net: Any, made: Batches, *rest: Any) -> float:
            if made.batch > 16:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
            return real(net, made, *rest)

        monkeypatch.setattr(search, "_speed", scarce)
        _, fitted = train(splits, tmp_path, batch="auto")
        assert fitted.facts.batch == 16 and fitted.facts.search.batches[-1].why == "out of memory"

    def test_rate_found_trains(self, splits: PreparedSplits, tmp_path: Path) -> None:
        given = network()
        before = copy.deepcopy(given.state_dict())
        _, fitted = train(splits, tmp_path, given, learning_rate="auto", epochs=4)
        assert fitted.best.validation_accuracy > 0.9
        assert 1e-4 < fitted.facts.learning_rate < 10 and len(fitted.facts.search.range) > 20
        assert not torch.equal(before["0.0.weight"], given.state_dict()["0.0.weight"])

    def test_rate_where_most_of_the_fall_has_happened(self) -> None:
        curve = [(0.001, 2.0), (0.01, 1.8), (0.1, 1.2), (0.3, 1.05), (1.0, 1.0), (3.0, 1.6)]
        assert search.chosen_rate(curve, "one-cycle") == 0.3 and search.chosen_rate(curve, "constant") == 0.1
        assert search.chosen_rate([], "constant") == 1e-4

    def test_a_resumed_run_keeps_what_was_found(self, splits: PreparedSplits, tmp_path: Path) -> None:
        _, first = train(splits, tmp_path, batch="auto", learning_rate="auto")
        _, again = train(splits, tmp_path, batch="auto", learning_rate="auto")
        assert first.facts.search == again.facts.search and first.curve == again.curve


def test_estimate_is_near_what_is_kept(splits: PreparedSplits) -> None:
    net, x = network(), torch.randn(4, 1, 12, 12)
    found = memory.estimate(net, x, 100, "adamw", torch.enable_grad)
    assert found.parameters == found.gradients == found.optimizer / 2 == 4 * sum(p.numel() for p in net.parameters())
    assert found.activations == pytest.approx(memory.saved_bytes(net, torch.randn(100, 1, 12, 12), torch.enable_grad), rel=0.1)
    assert replace(found, batch=0).total < found.total
