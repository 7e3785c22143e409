"""The search over repair steps, from plain calibration to training with distillation, until the floor holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from edgeloop_exporters.floating import begins_stream, is_sum
from edgeloop_exporters.gates import has_gates
from edgeloop_exporters.ranges import Method
from edgeloop_pipeline.networks.saved_network import Saved
from edgeloop_pipeline.quantization import diagnosis, quantized_graph, shipped_cost
from edgeloop_pipeline.quantization.aware_training import trained_copy
from edgeloop_pipeline.quantization.candidates import TIE, Candidate, better
from edgeloop_pipeline.quantization.leading_part import costly_front, matters
from edgeloop_pipeline.quantization.quantized_graph import Graph, Options, equalized_in_words
from edgeloop_pipeline.quantization.settings import QuantizeSettings
from edgeloop_pipeline.results.quantization import LayerLoss, RepairStep
from edgeloop_pipeline.results.training import Epoch
from edgeloop_pipeline.tasks.registry import task_for
from edgeloop_pipeline.training.scoring import scores_of

if TYPE_CHECKING:
    from edgeloop_pipeline.recipe.inputs import Inputs

METHODS: tuple[Method, ...] = ("percentile", "mse", "entropy")
MUCH = 0.1  # of the float network's metric: a loss that is worth slower gates
IMPLIED_DROP = 0.005  # the floor if the recipe has none; it never starts a training
DISTILLED = "quantization-aware training with distillation"


@dataclass
class Repair:
    """The steps that were tried, and the best graph so far."""

    inputs: Inputs
    settings: QuantizeSettings
    saved: Saved
    symmetric: bool = False  # for TensorRT
    steps: list[RepairStep] = field(default_factory=list)
    curve: list[Epoch] = field(default_factory=list)
    losses: list[LayerLoss] = field(default_factory=list)
    method: str = "post-training"
    left_out: list[str] = field(default_factory=list)  # steps that there was no time for

    def __post_init__(self) -> None:
        project = self.inputs.project
        self.splits, self.seed = project.splits, project.recipe.head.seed + 2
        self.task = task_for(self.splits)
        self.plain = scores_of(self.saved.network, self.saved.normalization, self.splits.validation)
        self.float_metric = self.task.judge(self.plain, self.splits.validation)[0]
        rows = torch.randperm(len(self.splits.train), generator=torch.Generator().manual_seed(0))
        self.own = "symmetric " if self.symmetric else ""
        self.values = self.splits.train.values[rows[: self.settings.calibration_samples].numpy()]

    def missed(self, metric: float) -> str:
        """The floor that this metric misses on validation data, in words; '' for none."""
        target, lost = self.inputs.project.recipe.head.target, self.float_metric - metric
        for name, limit in (("max_int8_drop", target.max_int8_drop), ("max_drop", target.max_drop)):
            if limit is not None and lost > limit:
                return f"lost {lost:.2%}, more than {name} {limit:.2%}"
        if target.min_accuracy is not None and metric < target.min_accuracy:
            return f"{metric:.2%} is below min_accuracy {target.min_accuracy:.2%}"
        return ""

    def _holds(self) -> bool:
        return self._enough(self.best.metric)

    def _enough(self, metric: float) -> bool:
        """Whether the floor holds; without a floor, whether the loss is small."""
        target = self.inputs.project.recipe.head.target
        if target.max_drop is None and target.max_int8_drop is None and target.min_accuracy is None:
            return self.float_metric - metric <= IMPLIED_DROP
        return not self.missed(metric)

    def run(self) -> Graph:
        """Try the steps one after the other until the floor holds, keep the best graph, and explain the first step's loss."""
        settings, given = self.settings, Options(float_layers=tuple(self.settings.float_layers), symmetric=self.symmetric)
        self.began = start = time.perf_counter()
        plain = quantized_graph.prepare(self.saved, self.splits, msgspec.structs.replace(given, percentile=settings.percentile))
        quantized_graph.observe(plain, self.values)
        stretched = diagnosis.outlier_samples(plain)
        first: Method = "minmax" if settings.calibration == "auto" else settings.calibration
        self.best = self._chosen(plain, first)
        self.post_training = self.best.metric
        self._record(f"calibration by {first}", self.best, 0.0, True, start)
        self.losses = diagnosis.explain(self.best.graph, self.splits, stretched, settings.diagnosis_seconds)
        plain = self._gates_opened(plain, first)
        if settings.calibration == "auto":
            self._other_methods(plain)
        if settings.rounding == "inputs":
            self._on_same_ranges("weights rounded by their inputs", plain, round_by_inputs=True)
        equalize = settings.equalize == "always" or (settings.equalize == "auto" and not self._holds())
        if equalize:
            self._on_same_ranges("bias correction", plain, correct_biases=True)
        quantized_graph.forget(plain)
        self._front_in_float()
        if equalize:
            self._equalized()
        self._streams_in_float()
        start_from = self._some_in_float()
        if self.left_out:
            spent = f"{self.settings.repair_seconds:g} s (quantize.repair_seconds) are used up"
            self.inputs.log(f"{spent}, so these steps are left out: {', '.join(self.left_out)}")
        self._trained(start_from)
        return self.best.graph

    def _judged(self, graph: Graph) -> Candidate:
        validation = self.splits.validation
        scores = scores_of(graph.module, self.saved.normalization, validation)
        noise = diagnosis.sqnr(self.plain, scores, self.splits.outputs)
        return Candidate(graph, self.task.judge(scores, validation)[0], noise, self.task.shares(scores.numpy(), validation))

    def _chosen(self, graph: Graph, method: Method) -> Candidate:
        quantized_graph.choose(graph, self.values, method)
        options = msgspec.structs.replace(graph.options, method=method)
        return self._judged(replace(graph, options=options))

    def _calibrated(self, options: Options) -> Candidate:
        graph = quantized_graph.prepare(self.saved, self.splits, options)
        quantized_graph.calibrate(graph, self.values)
        return self._judged(graph)

    def _better(self, candidate: Candidate) -> bool:
        """Whether the candidate is better than the best graph: by the floor, then by the figures."""
        enough = self._enough(candidate.metric)
        return enough if enough != self._holds() else better(candidate, self.best, len(self.splits.validation))

    def _record(
        self, name: str, candidate: Candidate, gained: float, kept: bool, start: float, over: str = "", note: str = ""
    ) -> RepairStep:
        seconds = round(time.perf_counter() - start, 3)
        self.steps.append(RepairStep(name, candidate.metric, candidate.sqnr_db, gained, kept, seconds, over, note))
        outcome = "kept" if kept else ", ".join(filter(None, ("not kept", over and f"over {over}", note)))
        self.inputs.log(
            f"{self.own}{name}: validation {candidate.metric:.2%} (float {self.float_metric:.2%}),"
            f" {candidate.sqnr_db:.1f} dB, {outcome}"
        )
        return self.steps[-1]

    def _try(
        self,
        name: str,
        make: Callable[[], Candidate],
        over_of: Callable[[Candidate], str] = lambda _: "",
        note_of: Callable[[Candidate], str] = lambda _: "",
    ) -> RepairStep:
        """Try one step. Keep it if it is better and its files hold the ceilings (`over_of`: the exceeded one, or '')."""
        start = time.perf_counter()
        if start - self.began > self.settings.repair_seconds:
            self.left_out.append(name)
            return RepairStep(name, self.best.metric, self.best.sqnr_db, 0.0, False, 0.0)
        candidate = make()
        over, gained = over_of(candidate), candidate.metric - self.best.metric
        kept = self._better(candidate) and not over
        if kept:
            self.best = candidate
        return self._record(name, candidate, gained, kept, start, over, note_of(candidate))

    def _over_a_ceiling(self, candidate: Candidate) -> str:
        """The ceiling that its files exceed, or '': a float layer takes four times the bytes and may be slower."""
        head = self.inputs.project.recipe.head
        return shipped_cost.over_a_ceiling(self.saved, candidate.graph, self.splits, head, self.symmetric)

    def _gates_opened(self, plain: Graph, method: Method) -> Graph:
        """Where much is lost, let channels have scales of their own through hard-swish and SiLU: one integer product more at each.

        Returns the graph that further steps work on, observed.
        """
        much = self.best.metric < self.float_metric - MUCH * abs(self.float_metric)
        if not much or self.settings.equalize == "never" or self.symmetric or not has_gates(plain.module):
            return plain
        opened = quantized_graph.prepare(
            self.saved, self.splits, msgspec.structs.replace(plain.options, equalize=True, through_gates=True)
        )
        quantized_graph.observe(opened, self.values)
        kept = self._try("equalization through gates", partial(self._chosen, opened, method), self._over_a_ceiling).kept
        quantized_graph.forget(plain if kept else opened)
        return opened if kept else plain

    def _other_methods(self, plain: Graph) -> None:
        """Try the other calibration methods, which costs a few forward passes. Afterwards `plain` has the best one's ranges.

        Around zero they are always tried: what a relu makes has half of the numbers, so a narrower range is worth more.
        """
        if not self.symmetric and self._holds() and self.best.metric >= self.float_metric - TIE:
            return
        for method in METHODS:
            self._on_same_ranges(f"calibration by {method}", plain, method=method)

    def _on_same_ranges(self, name: str, plain: Graph, **changed: Any) -> None:
        """Another choice on the graph whose values were observed already; it is taken back if it is not kept."""
        before = quantized_graph.snapshot(plain)
        options = msgspec.structs.replace(self.best.graph.options, **changed)
        if not self._try(name, partial(self._chosen, replace(plain, options=options), options.method)).kept:
            quantized_graph.restore(plain, before)

    def _front_in_float(self) -> None:
        """Leave the first layers in float, where rounding them costs most of the loss: 8 bits of a waveform have no quiet."""
        if not self.settings.max_float_front or not matters(self.float_metric, self.best.metric):
            return
        module, validation = self.best.graph.module, self.splits.validation

        def judge() -> float:
            return self.task.judge(scores_of(module, self.saved.normalization, validation), validation)[0]

        # Corrected biases make up for what is rounded now: without that rounding they would be errors themselves.
        kept = quantized_graph.snapshot(self.best.graph)
        quantized_graph.put(module, self.best.graph.floats)
        layers = costly_front(module, judge, self.float_metric, self.settings.max_float_front)
        quantized_graph.restore(self.best.graph, kept)
        if layers:
            options = msgspec.structs.replace(self.best.graph.options, float_front=layers)
            name = "the first layer in float" if layers == 1 else f"the first {layers} layers in float"
            self._try(name, partial(self._calibrated, options), self._over_a_ceiling)

    def _equalized(self) -> None:
        if self.best.graph.options.equalize:
            return
        both = msgspec.structs.replace(self.best.graph.options, correct_biases=True, equalize=True)
        self._try(
            "cross-layer equalization and bias correction", partial(self._calibrated, both),
            note_of=lambda candidate: equalized_in_words(candidate.graph.equalized),
        )  # fmt: skip

    def _streams_in_float(self) -> None:
        """Leave residual streams in float: each block rounds the stream once more, and no later layer corrects this."""
        how, nodes = self.settings.float_streams, self.best.graph.module.graph.nodes
        sums, firsts = sum(map(is_sum, nodes)), sum(map(begins_stream, nodes))
        if not sums or how == "never" or (how == "auto" and self._holds()):
            return
        options = msgspec.structs.replace(self.best.graph.options, float_streams=True)
        name = f"residual streams in float: {sums} sums, {firsts} layers that begin them"
        self._try(name, partial(self._calibrated, options), self._over_a_ceiling)

    def _some_in_float(self) -> Candidate:
        """Leave the layers in float whose rounding adds most noise to the scores: one, then twice as many, until the floor holds.

        Returns the best graph without them: training starts from it.

        The order is by noise, not by each layer's cost in the metric: noise adds up, and a few hundred samples show it clearly.
        """
        integer_best = self.best
        if self._holds() or not self.settings.max_float_layers:
            return integer_best
        losses = diagnosis.explain(
            self.best.graph, self.splits, {}, self.settings.diagnosis_seconds
        )  # repairs changed which layers cost most
        integer = quantized_graph.layers(self.best.graph.module, self.best.graph.plan.floating)
        ranked = dict.fromkeys(r.layer for r in sorted(losses, key=lambda r: r.alone_sqnr_db) if r.layer in integer)
        worst = list(ranked)[: self.settings.max_float_layers]
        options, chosen, tight = self.best.graph.options, list[str](), False
        while worst and not self._holds():
            more = worst[: 1 if tight else max(1, len(chosen))]
            layers = tuple(dict.fromkeys((*options.float_layers, *chosen, *more)))
            made = partial(self._calibrated, msgspec.structs.replace(options, float_layers=layers))
            over = bool(self._try(f"{', '.join(more)} in float{' too' * bool(chosen)}", made, self._over_a_ceiling).over)
            tight = tight or over  # from now on one by one: a smaller layer may still fit
            chosen += [] if over else more
            if not over or len(more) == 1:
                worst = worst[len(more) :]
        return integer_best

    def _trained(self, integer: Candidate) -> None:
        settings = self.settings
        missed = self.missed(self.best.metric)
        if settings.qat == "never" or (settings.qat == "auto" and not missed):
            return
        # The purpose of training is to need no float layers.
        starts = [("quantization-aware training", integer, False), (DISTILLED, integer, True)]
        if self.best is not integer:
            starts.append((f"{DISTILLED}, and the layers in float", self.best, True))
        for number, (name, start_from, distill) in enumerate(starts):
            start = time.perf_counter()
            candidate = self._fitted(start_from.graph, distill, self.inputs.scratch / f"{self.own}start-{number}")
            kept, gained = self._better(candidate), candidate.metric - self.best.metric
            if kept:
                self.best, self.method = candidate, "quantization-aware"
            self._record(name, candidate, gained, kept, start)
            if not self.missed(self.best.metric):
                return

    def _fitted(self, calibrated: Graph, distill: bool, scratch: Path) -> Candidate:
        """A trained copy; `calibrated` stays unchanged. `scratch`: of this training alone; an interrupted one resumes from it."""
        graph, self.curve = trained_copy(
            calibrated, self.inputs, self.saved, self.splits, self.settings, self.seed, scratch, distill
        )
        return self._judged(graph)
