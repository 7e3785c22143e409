"""Search before training: precision, batch and learning rate."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.results.training import BatchTrial
from edgeloop_pipeline.tasks.losses import cross_entropy
from edgeloop_pipeline.training import memory, search
from edgeloop_pipeline.training.batches import Batches
from edgeloop_pipeline.training.scoring import evaluation_batch
from edgeloop_pipeline.training.settings import FitSettings
from training_parts import NORMALIZATION, network, train


class Held:
    """Counts the bytes that autograd keeps for backward passes, and their most."""

    def __init__(self) -> None:
        self.now: dict[int, int] = {}
        self.most = 0

    def keep(self, tensor: torch.Tensor) -> Kept:
        return Kept(self, tensor)


class Kept:
    """A tensor that a backward pass still needs."""

    def __init__(self, held: Held, tensor: torch.Tensor) -> None:
        self.held, self.tensor = held, tensor
        held.now[id(self)] = tensor.nbytes
        held.most = max(held.most, sum(held.now.values()))

    def __del__(self) -> None:
        del self.held.now[id(self)]


class TestSearch:
    def test_the_usual_precision_is_left_only_for_something_clearly_faster(self) -> None:
        times = {("bf16", True): 10.0, ("bf16", False): 12.0, ("float32", True): 9.0, ("float32", False): 20.0}
        assert search.chosen_layout(times, ("bf16", True)) == ("bf16", True)
        assert search.chosen_layout({**times, ("float32", False): 5.0}, ("bf16", True)) == ("float32", False)

    def test_precision_and_layout_are_measured(self, splits: PreparedSplits, tmp_path: Path) -> None:
        _, fitted = train(splits, tmp_path, precision="auto", channels_last="auto")
        assert set(fitted.facts.search.layouts) >= {"float32", "float32 channels last"}
        assert fitted.precision.startswith(("bf16", "float32"))

    @pytest.mark.parametrize("batch", [8, "auto"])
    def test_trials_hold_no_more_than_training_will(self, batch: int | str, tmp_path: Path) -> None:
        """Of pictures of 256 × 256 pixels, 64 were tried where the recipe had 8: gigabytes, which stayed with the process."""
        rows = np.arange(64)
        values = np.random.default_rng(0).integers(0, 255, (64, 256, 256, 1)).astype(np.uint8)
        pictures = Samples(values, rows % 3, rows, rows)
        settings = FitSettings(batch=batch, learning_rate=0.1, precision="auto", channels_last="auto", max_memory_bytes=1)  # type: ignore[arg-type]
        given, held = nn.Sequential(network()[0], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)), Held()
        with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
            search.choose_settings(
                given, NORMALIZATION, PreparedSplits(("a", "b", "c"), pictures, pictures, pictures), settings, cross_entropy(0.0),
                None, 0, tmp_path, lambda _: None,
            )  # fmt: skip
        samples = batch if isinstance(batch, int) else evaluation_batch(values)
        few = NORMALIZATION.normalize(torch.from_numpy(values[:4]))
        assert samples < 32 and 0 < held.most < 1.5 * memory.estimate(given, few, samples, "sgd", nullcontext).activations

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


def test_long_sounds_go_through_a_network_fewer_at_a_time() -> None:
    """What a model makes of a point of sound is a spectrum's worth: 13 recordings of nine seconds took 8 GB."""
    sound = np.zeros((20, 144_160, 1), np.int16)
    assert evaluation_batch(sound) == 1 and evaluation_batch(sound.astype(np.float32)) == 13
    assert evaluation_batch(sound[:, :4000]) == evaluation_batch(sound[:, :4000].astype(np.float32))
