"""Explains what int8 loses: each layer's error, its effect on the task's metric, and the likely cause in words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_exporters import bias_correction, quantization
from edgeloop_exporters.floating import is_sum, sources
from edgeloop_exporters.graph import WEIGHTED, channel_axis, layer_name, tensor_of
from edgeloop_exporters.named_outputs import Output, separate
from edgeloop_exporters.quantizers import ActivationQuantizer, Rescaled, WeightQuantizer
from edgeloop_pipeline.data.types import PreparedSplits, Samples
from edgeloop_pipeline.quantization import quantized_graph
from edgeloop_pipeline.quantization.quantized_graph import Graph, samples_of
from edgeloop_pipeline.results.quantization import LayerLoss
from edgeloop_pipeline.tasks.registry import task_for
from edgeloop_pipeline.training.scoring import evaluation_batch, scores_of

MAX_SAMPLES, MIN_SAMPLES = 256, 8
PATIENCE = 10  # times the time that was given
MEAN_SAMPLES = 16  # samples that give a layer's mean error when it alone is rounded
OUTLIER = 8.0  # a channel's peak relative to the median channel's
SATURATED = 0.01  # share of the values outside their range
OUTLIER_SAMPLE = 3.0  # a calibration sample's extreme relative to the 99th percentile of all samples' extremes
NOISY_DB = 20.0
EPSILON = 1e-12


@dataclass(frozen=True)
class LayerFacts:
    """The facts about one layer's rounding. Peaks: largest magnitude by channel, of its output and of its weights."""

    sqnr_db: float  # the lower of two: its output's, and the scores' when it alone is rounded
    channel_peaks: list[float]
    weight_peaks: list[float]
    saturated_share: float
    stretched_by: float  # the most extreme calibration sample relative to the 99th percentile of all
    per_tensor: bool


def sqnr(reference: Tensor, found: Tensor, outputs: Sequence[Output] = ()) -> float:
    """The signal-to-quantization-noise ratio in dB; 100 without noise. Of several `outputs`, joined, the least one's."""
    if outputs:
        parts = separate(found, outputs)
        return min(sqnr(part, parts[name]) for name, part in separate(reference, outputs).items())
    noise = float(((reference - found) ** 2).sum())
    return 100.0 if noise < EPSILON else float(10 * torch.log10((reference**2).sum() / noise))


def cause_of(facts: LayerFacts) -> str:
    """The likely reason for a layer's error, in words; '' if the error is small."""
    if facts.sqnr_db > NOISY_DB * 1.5:
        return ""
    if facts.stretched_by > OUTLIER_SAMPLE:
        return (
            f"one calibration sample stretches the range {facts.stretched_by:.1f} times past the 99th percentile of samples: remove"
            " a bad sample, or use percentile or mse calibration"
        )
    if facts.saturated_share > SATURATED:
        return f"{facts.saturated_share:.1%} of the values saturate: calibration saw a narrower range than these data have"
    outlier = _outlier(facts.channel_peaks)
    if outlier:
        channel, ratio = outlier
        return (
            f"channel {channel} reaches {ratio:.0f} times as far as the middle one, and all share one scale: equalize, or keep the"
            " next layer in float"
        )
    outlier = _outlier(facts.weight_peaks)
    if outlier and facts.per_tensor:
        return f"output {outlier[0]}'s weights reach {outlier[1]:.0f} times as far as the middle one's, and all share one scale"
    if outlier:
        return f"input channel {outlier[0]}'s weights reach {outlier[1]:.0f} times as far as the middle one's: equalize"
    return "spread over its channels: no single channel is the cause" if facts.sqnr_db < NOISY_DB else ""


def _outlier(peaks: list[float]) -> tuple[int, float] | None:
    alive = sorted(p for p in peaks if p > 0)
    if len(alive) < 3:
        return None
    ratio = max(peaks) / max(alive[len(alive) // 2], EPSILON)
    return (peaks.index(max(peaks)), ratio) if ratio > OUTLIER else None


class _Outputs(fx.Interpreter):
    """Records the output of every layer with weights and of every sum, and the share of each rounded tensor that saturates."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Tensor] = {}
        self.saturated: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target in WEIGHTED or is_sum(n):
            self.found[n.name] = result
        elif n.op == "call_module":
            quantizer = self.module.get_submodule(str(n.target))
            if isinstance(quantizer, ActivationQuantizer) and not isinstance(quantizer, Rescaled) and not quantizer.fixed:
                source: Any = n.args[0]
                value = self.env[source]
                low, high = quantizer.low.clamp(max=0), quantizer.high.clamp(min=0)
                room = (high - low) / 255
                outside = ((value < low - room) | (value > high + room)).float().mean()
                self.saturated[source.name] = float(outside)
        return result


def explain(graph: Graph, splits: PreparedSplits, stretched: dict[str, float], seconds: float = 60.0) -> list[LayerLoss]:
    """Explain every layer with weights and every sum, in order, on validation samples.

    `stretched`: quantizer → how far one calibration sample reaches (`outlier_samples`). `seconds`: about the most time;
    with less of it, fewer samples show each layer's cost: eight, and one where these would take more than PATIENCE times as long.
    """
    module, normalization = graph.module, graph.normalization
    nodes = [n for n in module.graph.nodes if n.target in WEIGHTED or is_sum(n)]
    start = time.perf_counter()
    scores_of(module, normalization, some_of(splits.validation, MIN_SAMPLES))
    each = (time.perf_counter() - start) / MIN_SAMPLES * max(1, len(nodes))  # of one sample for all layers
    samples = some_of(splits.validation, _samples_in(seconds, each))
    task = task_for(splits)
    few = min(MAX_SAMPLES // 4, evaluation_batch(samples.values))  # their outputs of every layer are held, of both graphs
    x = samples_of(normalization, samples.values[:few])
    rounded = _Outputs(module)
    with torch.no_grad():
        rounded.run(x)
    moved = {name: value.detach().clone() for name, value in module.named_parameters()}
    quantized_graph.put(module, graph.floats)
    quantization.set_mode(module, "off", "off")
    means = bias_correction.means(module, x[:MEAN_SAMPLES])
    plain, plain_scores = _Outputs(module), scores_of(module, normalization, samples)
    with torch.no_grad():
        plain.run(x)
    best = task.judge(plain_scores, samples)[0]
    rows = []
    for node in nodes:
        own = _parameters(node) & moved.keys()
        quantized_graph.put(module, {name: moved[name] for name in own})
        _alone(module, node)
        if graph.options.correct_biases and (bias := _bias(node)) in own:
            # Its bias also corrects the layers before it; alone, it corrects only the loss of this layer.
            quantized_graph.put(module, {bias: graph.floats[bias]})
            off = means[node.name] - bias_correction.means(module, x[:MEAN_SAMPLES])[node.name]
            quantized_graph.put(module, {bias: graph.floats[bias] + off})
        scores = scores_of(module, normalization, samples)
        quantized_graph.put(module, {name: graph.floats[name] for name in own})
        a, b = plain.found[node.name], rounded.found[node.name]
        noise, alone = sqnr(a, b), sqnr(plain_scores, scores, splits.outputs)
        rows.append(
            LayerLoss(
                layer_name(node) or node.name, noise, float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0)),
                best - task.judge(scores, samples)[0], alone,
                cause_of(_facts(module, node, a, min(noise, alone), rounded.saturated, stretched)),
            )
        )  # fmt: skip
    quantized_graph.put(module, moved)
    quantization.set_mode(module, "quantize", "quantize")
    return rows


def _samples_in(seconds: float, each: float) -> int:
    """How many samples there is time for, at `each` seconds for one."""
    least = MIN_SAMPLES if MIN_SAMPLES * each <= PATIENCE * seconds else 1
    return int(min(MAX_SAMPLES, max(least, seconds / each)))


def _parameters(node: Any) -> set[str]:
    """The names of its weight and bias behind their quantizers, if they are parameters."""
    given = [n for n in node.args[1:3] if isinstance(n, fx.Node)]
    return {str(n.target) for n in (*given, *(source for n in given for source in n.all_input_nodes))}


def _bias(node: Any) -> str:
    return str(node.args[2].target) if len(node.args) > 2 and isinstance(node.args[2], fx.Node) else ""


def some_of(samples: Samples, most: int) -> Samples:
    rows = evenly_spaced_rows(len(samples), most)
    return samples.of(rows)


def _alone(module: fx.GraphModule, node: Any) -> None:
    """Round only the tensors that this layer reads and writes."""
    quantization.set_mode(module, "off", "off")
    around = [n for n in (*node.args[:2], *_following(node)) if isinstance(n, fx.Node) and n.op == "call_module"]
    for n in around:
        quantizer: Any = module.get_submodule(str(n.target))
        if isinstance(quantizer, ActivationQuantizer | WeightQuantizer):
            quantizer.mode = "quantize"


def _following(node: fx.Node) -> list[fx.Node]:
    """The quantizers of its output, with or without a fused activation before them."""
    users = list(node.users)
    return [u for user in users for u in ([user] if user.op == "call_module" else user.users)]


def _facts(
    module: fx.GraphModule, node: Any, output: Tensor, noise: float, saturated: dict[str, float], stretched: dict[str, float]
) -> LayerFacts:
    axis = channel_axis(next((n for n in (node, *sources(node)) if n.target in WEIGHTED), node))  # for a sum: that of its layer
    source = node.args[1]
    quantizer = module.get_submodule(str(source.target)) if source.op == "call_module" else None
    weight = tensor_of(module, source.args[0] if source.op == "call_module" else source)
    after = [n for n in _following(node) if n.op == "call_module"]
    per_tensor = isinstance(quantizer, WeightQuantizer) and quantizer.axis is None
    by_channel = 0 if per_tensor else 1
    weights = weight.detach().abs().transpose(0, by_channel).flatten(1).amax(1).tolist() if weight is not None else []
    return LayerFacts(
        sqnr_db=noise,
        channel_peaks=output.abs().transpose(0, axis).flatten(1).amax(1).tolist(),
        weight_peaks=weights,
        saturated_share=max((saturated.get(str(n.args[0]), 0.0) for n in after), default=0.0),
        stretched_by=max((stretched.get(str(n.target), 0.0) for n in after), default=0.0),
        per_tensor=per_tensor,
    )


def outlier_samples(graph: Graph) -> dict[str, float]:
    """Quantizer → its most extreme calibration sample relative to the 99th percentile of samples. Call it before `forget`."""
    found = {}
    for name, child in graph.module.named_modules():
        if isinstance(child, ActivationQuantizer) and len(child.extremes) >= 16:
            peaks = torch.tensor([max(-low, high) for low, high in child.extremes])
            found[name] = float(peaks.max() / torch.quantile(peaks, 0.99).clamp(min=EPSILON))
    return found
