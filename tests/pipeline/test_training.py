"""Training: every technique changes what it should and nothing else."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeloop_contract.errors import ModelError
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.tasks.losses import cross_entropy
from edgeloop_pipeline.training import checkpoints, memory, schedules
from edgeloop_pipeline.training.batches import Batches, Loader, Part
from edgeloop_pipeline.training.precision import Hardware, Precision, choose
from edgeloop_pipeline.training.settings import FitSettings
from edgeloop_pipeline.training.steps import gradients
from training_parts import NORMALIZATION, furthest, network, noise, train


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
    undisturbed, wanted = train(splits, tmp_path / "a", network(**same), epochs=6, average=0.9)
    real, rng, left, kills = gradients, random.Random(0), [0], 0

    def fragile(*arguments: Any) -> float:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(loop, "gradients", fragile)
    while True:
        left[0] = rng.randint(1, 2) if kills < 20 else 1000
        try:
            resumed, got = train(splits, tmp_path / "b", network(**same), epochs=6, average=0.9, checkpoint_steps=1)
            break
        except Killed:
            kills += 1
    assert kills == 20
    assert furthest(undisturbed, resumed) == 0
    assert got.curve == wanted.curve


def test_averaged_weights_follow_the_steps_and_are_what_is_judged(splits: PreparedSplits, tmp_path: Path) -> None:
    from edgeloop_pipeline.training.averaging import Average

    net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False))
    average, wanted = Average(net, 0.5), net[0].weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            net[0].weight.fill_(step)
        average.update()
        share = 1 - min(0.5, (1 + step) / (10 + step))
        wanted += (step - wanted) * share
    with average.used():
        assert torch.allclose(net[0].weight, wanted)
    assert (net[0].weight == 29).all(), "training goes on with its own weights"
    plain, _ = train(splits, tmp_path / "a", keep="last")
    smooth, fitted = train(splits, tmp_path / "b", keep="last", average=0.9)
    assert furthest(plain, smooth) > 0 and fitted.best.validation_loss < 10


def test_averaged_weights_need_all_of_them_here(splits: PreparedSplits, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="average: needs all weights in one process"):
        train(splits, tmp_path / "a", average=0.9, shard=True)


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


def test_estimate_is_near_what_is_kept(splits: PreparedSplits) -> None:
    net, x = network(), torch.randn(4, 1, 12, 12)
    found = memory.estimate(net, x, 100, "adamw", torch.enable_grad)
    assert found.parameters == found.gradients == found.optimizer / 2 == 4 * sum(p.numel() for p in net.parameters())
    assert found.activations == pytest.approx(memory.saved_bytes(net, torch.randn(100, 1, 12, 12), torch.enable_grad), rel=0.1)
    assert replace(found, batch=0).total < found.total
