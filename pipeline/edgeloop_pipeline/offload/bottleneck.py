"""Bottleneck codecs: at a cut, fewer channels cross to the server, for a small loss of agreement.

A codec has one 1 × 1 convolution on each side of the wire (Eshratifar et al. 2019). They start as the projection of the
boundary's channels that, to first order, changes the scores least. They learn by distillation: the frozen tail imitates the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import Tensor, fx, nn

from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_contract.manifest import TensorSpec
from edgeloop_exporters import bottleneck_onnx, cutting, parity
from edgeloop_exporters.quantizers import ActivationQuantizer
from edgeloop_pipeline.networks import saved_network
from edgeloop_pipeline.quantization import quantized_graph
from edgeloop_pipeline.results.files import BottleneckTrial
from edgeloop_pipeline.tasks.registry import task_for
from edgeloop_pipeline.training.scoring import in_batches, seed_everything

if TYPE_CHECKING:
    from pathlib import Path

    from edgeloop_contract.arrays import Array
    from edgeloop_contract.manifest import Cut
    from edgeloop_pipeline.offload.cut_bench import CutBench
    from edgeloop_pipeline.recipe.inputs import Inputs

LEARNING_SAMPLES = 1024
MIN_AGREEMENT = 0.5  # a codec with less agreement is left out
BATCH = 32
LEARNING_RATE = 3e-3
SOME = 256  # samples for the first projection
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Point:
    """A cut point in a quantized graph: the node whose output crosses, its scale and zero point."""

    node: fx.Node
    scale: float
    zero_point: int


@dataclass(frozen=True)
class BottleneckCodec:
    """`encode` (few, channels), `decode` (channels, few), their biases; uint8 of this scale and zero point cross the wire."""

    encode: Array
    encode_bias: Array
    decode: Array
    decode_bias: Array
    scale: float
    zero_point: int


class Bottlenecks:
    """Bottleneck codecs at the cuts of one model. They learn from training samples; the cuts' samples measure agreement."""

    def __init__(self, inputs: Inputs, work: CutBench, share: float, steps: int) -> None:
        project = inputs.project
        seed_everything(project.recipe.head.seed)
        self._work, self._share, self._steps, self._log = work, share, steps, inputs.log
        self.tried: dict[str, BottleneckTrial] = {}  # by name, including those that are left out
        self._task, train = task_for(project.splits), project.splits.train
        self._samples = train.values[evenly_spaced_rows(len(train), LEARNING_SAMPLES)]
        saved = saved_network.load(project, inputs.artefacts["network"])
        self._graph = quantized_graph.load(saved, project.splits, inputs.artefacts["quantized"])
        self._scores = torch.from_numpy(in_batches(work.whole.run, self._samples))

    def of(self, cut: Cut, out: Path) -> tuple[Cut | None, str]:
        """Writes the head and decoder of an inner cut's narrow twin. Returns the twin, or the reason for none."""
        work, channels = self._work, int(self._share * cut.boundary.shape[0])
        if cut.boundary.dtype != "uint8" or len(cut.boundary.shape) < 2 or not channels:
            return None, "only an 8-bit boundary with several channels, and several values in each, can be narrowed"
        head = (out / cut.file).read_bytes()
        crossing = in_batches(work.open(head).raw, self._samples)
        few = quantized_graph.samples_of(self._graph.normalization, self._samples[:2])
        point = point_of(self._graph.module, few, crossing[:2])
        tail = tail_of(self._graph.module, point.node) if point else None
        if point is None or tail is None:
            return None, "the tensor was not found in the torch network, or a later layer reads the network's input again"
        codec = learn(tail, point, crossing, self._scores, channels, self._steps, self._task.imitation)
        name, tensor = f"{cut.name}-narrow", f"{cut.tensor}.narrow"
        shape, wire, inner = [channels, *cut.boundary.shape[1:]], (codec.scale, codec.zero_point), (point.scale, point.zero_point)
        narrowed = bottleneck_onnx.with_encoder(head, cut.tensor, tensor, inner, codec.encode, codec.encode_bias, wire)
        decoder = bottleneck_onnx.decoder(work.model, cut.tensor, tensor, shape, wire, codec.decode, codec.decode_bias, inner)
        runs, behind = work.open(narrowed), work.open(cutting.tail(work.model, tensor, decoder))
        rows = runs.raw(work.samples)
        packed, agreement = work.packed(rows), work.agreement(behind.run(rows))
        self.tried[name] = BottleneckTrial(channels, cut.boundary.shape[0], packed[-1].bytes, agreement)
        self._log(
            f"{name}: {channels} of {cut.boundary.shape[0]} channels, {packed[-1].bytes:,.0f} bytes, same answer {agreement:.1%}"
        )
        if agreement < MIN_AGREEMENT:
            return None, f"{channels} of {cut.boundary.shape[0]} channels keep only {agreement:.0%} of the answers unchanged"
        (out / f"{name}.onnx").write_bytes(narrowed)
        (out / f"{name}-decoder.onnx").write_bytes(decoder)
        return msgspec.structs.replace(
            cut, name=name, tensor=tensor, boundary=TensorSpec(dtype="uint8", shape=shape), file=f"{name}.onnx",
            decoder=f"{name}-decoder.onnx", packed=[msgspec.structs.replace(p, agreement=agreement) for p in packed],
            head_us=work.took(runs, work.samples), tail_us=work.took(behind, rows),
        ), ""  # fmt: skip


def point_of(module: fx.GraphModule, x: Tensor, crossing: Array) -> Point | None:
    """The quantized tensor of the graph that equals a runtime's `crossing` (uint8, N, ...) for normalized samples `x`, or None."""
    recorder = parity.Recorder(module)
    with torch.no_grad():
        recorder.run(x)
    best, point = 1.0, None  # ties that are rounded differently change a few values by one step
    for node, (integers, scale, zero_point) in recorder.points.items():
        if integers.shape == crossing.shape and (distance := float(np.abs(integers - crossing.astype(np.int16)).mean())) < best:
            best, point = distance, Point(node, scale, zero_point)
    return point


def tail_of(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """The part from the output of `node` to the graph's output; None if a later node reads the network's input again."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {node: graph.placeholder("boundary")}
    for each in _between(module, node):
        if each.op == "placeholder":
            return None
        if each.op == "output":
            graph.output(copies[each.all_input_nodes[0]])
        else:
            copies[each] = graph.node_copy(each, lambda n: copies[n])
    return fx.GraphModule(module, graph)


def _between(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The nodes that the output needs, in order, without those that only `node` needs."""
    wanted = [n for n in module.graph.nodes if n.op == "output"]
    needed: set[fx.Node] = set()
    while wanted:
        each = wanted.pop()
        if each is not node and each not in needed:
            needed.add(each)
            wanted += each.all_input_nodes
    return [n for n in module.graph.nodes if n in needed]


def learn(
    tail: nn.Module, point: Point, crossing: Array, scores: Tensor, channels: int, steps: int,
    imitation: Callable[[Tensor, Tensor, float], Tensor],
) -> BottleneckCodec:  # fmt: skip
    """Train a codec. `crossing`: uint8 (N, C, ...) of training samples; `scores`: the whole network's (N, ...).

    Deterministic by torch's seed.
    """
    tail.eval().requires_grad_(False)
    some = _real(crossing[:: max(1, len(crossing) // SOME)], point)
    metric = _metric(tail, some)
    codec = _CodecModule(*_projection(some, metric, channels), point)
    optimizer = torch.optim.Adam(codec.parameters(), LEARNING_RATE)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    usual = float(_distance(some - some.mean((0, *range(2, some.dim())), keepdim=True), metric)) + 1e-12
    for _ in range(steps):
        rows = torch.randint(len(crossing), (min(BATCH, len(crossing)),))
        boundary = _real(crossing[rows.numpy()], point)
        seen = codec(boundary)
        loss = imitation(tail(seen), scores[rows], TEMPERATURE) + _distance(seen - boundary, metric) / usual
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace.step()
    with torch.no_grad():
        few = [codec.few(_real(crossing[i : i + BATCH], point)) for i in range(0, len(crossing), BATCH)]
    codec.crossing.low.fill_(min(float(f.min()) for f in few))
    codec.crossing.high.fill_(max(float(f.max()) for f in few))
    scale, zero_point = codec.crossing.qparams()
    encode, encode_bias, decode, decode_bias = (p.detach().numpy() for p in codec.parameters())
    return BottleneckCodec(encode, encode_bias, decode, decode_bias, float(scale), int(zero_point))


class _CodecModule(nn.Module):
    """Encodes and decodes a boundary; the values between are rounded as on the wire."""

    def __init__(self, encode: Tensor, decode: Tensor, mean: Tensor, point: Point) -> None:
        super().__init__()
        self.encode = nn.Parameter(encode)
        self.encode_bias = nn.Parameter(-(encode @ mean))
        self.decode = nn.Parameter(decode)
        self.decode_bias = nn.Parameter(mean.clone())
        self.crossing, self.boundary = ActivationQuantizer(), ActivationQuantizer((point.scale, point.zero_point))
        self.crossing.mode = self.boundary.mode = "quantize"

    def few(self, boundary: Tensor) -> Tensor:
        return _mixed(boundary, self.encode, self.encode_bias)

    def forward(self, boundary: Tensor) -> Tensor:
        few = self.few(boundary)
        self.crossing.low.copy_(few.detach().amin())
        self.crossing.high.copy_(few.detach().amax())
        made: Tensor = self.boundary(_mixed(self.crossing(few), self.decode, self.decode_bias))
        return made


def _mixed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1 × 1 convolution for any number of dimensions after the channels."""
    return torch.einsum("oc,nc...->no...", weight, x) + bias.reshape(1, -1, *[1] * (x.dim() - 2))


def _metric(tail: nn.Module, boundary: Tensor) -> Tensor:
    """The sensitivity of the scores to each pair of channels (C, C): the mean of J'J over samples and places; J, the scores'
    derivative, comes from random directions of the scores. All channels share a hundredth equally, as first order is inexact."""
    channels = boundary.shape[1]
    found = torch.zeros(channels, channels, dtype=torch.float64)
    for start in range(0, len(boundary), BATCH):
        part = boundary[start : start + BATCH].clone().requires_grad_()
        scores = tail(part)
        (slope,) = torch.autograd.grad((scores * torch.randn_like(scores)).sum(), part)
        rows = slope.transpose(0, 1).flatten(1).double()
        found += rows @ rows.T
    found /= found.trace().clamp(min=1e-300)
    return (0.99 * found + 0.01 * torch.eye(channels, dtype=torch.float64) / channels).float()


def _distance(apart: Tensor, metric: Tensor) -> Tensor:
    rows = apart.transpose(0, 1).flatten(1)
    return ((metric @ rows) * rows).sum(0).mean()


def _projection(boundary: Tensor, metric: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The encoder (count, C) and decoder (C, count) with the least expected distance in `metric`, and the mean (C,). The
    encoder's outputs all have a variance of 1, so one scale suits them all."""
    rows = boundary.transpose(0, 1).flatten(1).double()
    mean = rows.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(rows).reshape(len(rows), -1))
    spreads = values.clamp(min=0).sqrt()
    root = vectors * spreads @ vectors.T
    inverse = vectors / spreads.clamp(min=1e-4 * float(spreads.max()) + 1e-12) @ vectors.T
    _, directions = torch.linalg.eigh(root @ metric.double() @ root)
    best = directions.flip(1)[:, :count]
    return (best.T @ inverse).float(), (root @ best).float().contiguous(), mean.float()


def _real(integers: Array, point: Point) -> Tensor:
    return (torch.from_numpy(integers.astype(np.float32)) - point.zero_point) * point.scale
