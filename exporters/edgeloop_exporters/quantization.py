"""Where a graph is quantized: a printable plan first, then the edit. Both runtimes use the scales chosen here."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.activations import factor_of, greatest_read, least_read
from edgeloop_exporters.decoders import decoder_nodes, reach_of
from edgeloop_exporters.floating import SAME_SCALE, floating_nodes, fuses_into_next, only_float_reads, stays_float
from edgeloop_exporters.fronts import leading_part, spectrum
from edgeloop_exporters.graph import WEIGHTED, aten, layer_name, tensor_of
from edgeloop_exporters.kernel_scales import fixed_scale
from edgeloop_exporters.outputs import answers_here, last_nodes
from edgeloop_exporters.quantization_plan import (
    INPUT,
    QuantizationPlan,
    QuantizationPoint,
    QuantizedWeight,
    is_activation,
    pads_for_next,
    weight_of,
)
from edgeloop_exporters.quantizers import ActivationQuantizer, Mode, Rescaled, WeightQuantizer
from edgeloop_exporters.range_observers import Following
from edgeloop_exporters.ranges import LEVELS, Method
from edgeloop_exporters.rewrites import MAX_POOLS, pads_with_lowest

__all__ = [
    "QuantizationPlan", "choose_ranges", "insert", "output_qparams", "output_steps", "plan", "set_mode", "settle", "weight_key",
]  # fmt: skip

JOINING = {aten.cat.default, aten.stack.default}
CHOOSING = {aten.maximum.default, aten.minimum.default}  # TFLite's kernels have one scale for all three, and change others' to it
MAX_STEPS = 250  # of the output that one step of a layer's products may be: XNNPACK refuses a file with 256
MAY_RESCALE = {aten.add.Tensor, aten.mul.Tensor, *WEIGHTED}  # they read any scale; others hand it on, or share it with others


def plan(
    module: fx.GraphModule, input_qparams: tuple[float, int] | None = None, float_layers: Collection[str] = (),
    float_streams: bool = False, float_front: int = 0,
) -> QuantizationPlan:  # fmt: skip
    """Decide which tensors are quantized and which share a scale.

    `input_qparams`: the input's scale and zero point where the raw input is uint8 and thus quantized already.
    `float_layers`: layers (by name) that stay in float, with the activation that fuses into them; `float_streams`: whether
    residual streams do: every sum of two activations, and the layers whose output goes on to a sum beside other layers.
    `float_front`: so many layers at the beginning do.
    """
    groups: dict[str, str] = {}

    def root(name: str) -> str:
        while groups[name] != name:
            name = groups[name]
        return name

    points: list[QuantizationPoint] = []
    weights: dict[str, QuantizedWeight] = {}
    named: dict[fx.Node, str] = {}
    decoding = decoder_nodes(module)
    front = spectrum(module)
    floating = floating_nodes(module, float_layers, float_streams) | decoding | front | leading_part(module, float_front)
    for node in module.graph.nodes:
        if (weight := weight_of(module, node, floating)) is not None:
            weights.setdefault(weight.name, weight)
        if not is_activation(module, node) or fuses_into_next(node) or pads_for_next(node):
            continue
        if pads_with_lowest(node):
            _check_readers(node)
            if node.args[0] in named:
                named[node] = named[node.args[0]]
            continue
        if stays_float(node, floating) and only_float_reads(node, floating):
            continue
        name = INPUT if node.op == "placeholder" else node.name
        if (factor := _rescaled(module, node, named, points)) is not None:
            named[node], groups[name] = name, root(named[node.args[0]])
            points.append(QuantizationPoint(name, layer_name(node), name, None, True, factor))
            continue
        fixed = fixed_scale(node, floating, input_qparams)
        groups[name] = name
        named[node] = name
        if node.target in SAME_SCALE and node.args[0] in named:
            groups[name] = root(named[node.args[0]])
        elif node.target in JOINING | CHOOSING:
            for source in node.args[0] if node.target in JOINING else node.args:
                if source in named and not _fixed(points, root(named[source])):
                    groups[root(named[source])] = name
        float_scores = node in floating and all(map(answers_here, node.users))
        least = least_read(module, node)
        low, most = least if math.isfinite(least) else None, reach_of(node, decoding)
        points.append(
            QuantizationPoint(name, layer_name(node), name, fixed, not float_scores, 1.0, low, most, greatest=greatest_read(node))
        )
    points = [replace(p, group=root(p.name)) for p in points]
    named_floats, named_decoding, named_front = (frozenset(n.name for n in nodes) for nodes in (floating, decoding, front))
    return QuantizationPlan(tuple(points), tuple(weights.values()), named_floats, named_decoding, named_front)


def _rescaled(
    module: fx.GraphModule, node: fx.Node, named: dict[fx.Node, str], points: Iterable[QuantizationPoint]
) -> float | None:
    """The number by which its scale is that of its input's group, where it is that input times a number."""
    factor, source = factor_of(module, node), node.args[0] if node.args else None
    if factor is None or source not in named or not all(user.target in MAY_RESCALE for user in node.users):
        return None
    return factor * next((p.factor for p in points if p.name == named[source]), 1.0)  # type: ignore[index]


def _fixed(points: Iterable[QuantizationPoint], group: str) -> bool:
    return any(p.name == group and p.fixed for p in points)


def _check_readers(node: fx.Node) -> None:
    """Padding below everything means something to a max pooling alone. Raises ModelError."""
    for user in node.users:
        if user.target not in MAX_POOLS:
            raise ModelError(
                f"layer {layer_name(node) or '(network)'}: pads with minus infinity before {user.target}; integers have none:"
                " pad with the least value that can come, or leave this to the pooling"
            )


def insert(module: fx.GraphModule, decided: QuantizationPlan) -> None:
    """Put the plan's quantizers into the graph (switched off: see `set_mode`)."""
    home = nn.Module()
    module.add_module("quantizers", home)
    fixed = {p.group: p.fixed for p in decided.points if p.fixed}
    rounding = {p.group for p in decided.points if p.rounding}
    for group in dict.fromkeys(p.group for p in decided.points):
        limits = [-math.inf if p.least is None else p.least for p in decided.points if p.group == group and p.factor == 1.0]
        most = max((p.most for p in decided.points if p.group == group and p.most is not None), default=None)
        least = min(limits, default=-math.inf)
        bounds = [math.inf if p.greatest is None else p.greatest for p in decided.points if p.group == group]
        home.add_module(
            group, ActivationQuantizer(fixed.get(group), group in rounding, least, most, decided.symmetric, max(bounds))
        )
    rescaled = {p.name: Rescaled(home.get_submodule(p.group), p.factor) for p in decided.points if p.factor != 1.0}  # type: ignore[arg-type]
    for name, quantizer in rescaled.items():
        home.add_module(f"rescaled_{name}", quantizer)
    axes = {w.name: w.axis for w in decided.weights}
    by_name = {p.name: p for p in decided.points}
    floating = {n for n in module.graph.nodes if n.name in decided.floating}
    from_float = {n for n in module.graph.nodes if stays_float(n, floating)}
    for node in list(module.graph.nodes):
        name = INPUT if node.op == "placeholder" else node.name
        if name in by_name:
            wanted = by_name[name].readers
            readers = [u for u in node.users if node not in from_float or u not in floating]
            readers = readers if wanted is None else [u for u in node.users if u.name in wanted]
            own = f"rescaled_{name}" if name in rescaled else by_name[name].group
            _after(module, node, f"quantizers.{own}", readers)
        elif node.op == "get_attr" and str(node.target) in axes:
            key = weight_key(str(node.target))
            if not hasattr(home, key):
                home.add_module(key, WeightQuantizer(axes[str(node.target)]))
            users = [u for u in node.users if u.target in WEIGHTED and u.args[1] is node and u not in floating]
            users += [u for u in node.users if u.target is aten.embedding.default and u.args[0] is node]
            _after(module, node, f"quantizers.{key}", users)
    module.graph.lint()
    module.recompile()


def weight_key(name: str) -> str:
    return "weight_" + name.replace(".", "_")


def _after(module: fx.GraphModule, node: fx.Node, target: str, users: list[fx.Node]) -> None:
    with module.graph.inserting_after(node):
        quantizer = module.graph.call_module(target, (node,))
    quantizer.meta = {k: v for k, v in node.meta.items() if k in ("nn_module_stack", "val")}
    for user in users:
        user.replace_input_with(node, quantizer)


def set_mode(module: nn.Module, activations: Mode, weights: Mode, following: Following | None = None) -> None:
    """Switch all quantizers; `following`: how ranges follow the data during training."""
    for child in module.modules():
        if isinstance(child, ActivationQuantizer):
            child.mode = activations
            child.follow(following)
        elif isinstance(child, WeightQuantizer):
            child.mode = weights


def choose_ranges(module: nn.Module, method: Method = "minmax", percentile: float = 100.0) -> None:
    """Every activation's range from what was observed; what was observed is kept, for another choice."""
    for child in module.modules():
        if isinstance(child, ActivationQuantizer):
            child.settle(method, percentile)


def layers(module: fx.GraphModule) -> list[tuple[fx.Node, Any, Any, Any]]:
    """Convolutions and linear layers of a graph with quantizers: (node, input, weight, bias) nodes."""
    return [(n, n.args[0], n.args[1], n.args[2] if len(n.args) > 2 else None) for n in module.graph.nodes if n.target in WEIGHTED]


def settle(module: fx.GraphModule) -> None:
    """Round biases in torch as integers round them; call it when ranges and weights are final.

    A bias is an int32 at scale input × weight. Channels that are all but zero get a scale at which theirs fits, and
    every bias moves to its grid, so that the torch reference and the runtimes add the very same number. An output that is
    (nearly) zero in all data gets a scale that kernels take.
    """
    for node, source, weight, bias in layers(module):
        b, w = tensor_of(module, bias), tensor_of(module, weight.args[0] if weight.op == "call_module" else weight)
        x, quantizer = _quantizer(module, source), _quantizer(module, weight)
        if w is not None and isinstance(x, ActivationQuantizer) and isinstance(quantizer, WeightQuantizer):
            _widen(module, node, float(x.qparams()[0] * quantizer.scales(w).max()) / MAX_STEPS)
        if b is None or w is None or not isinstance(x, ActivationQuantizer) or not isinstance(quantizer, WeightQuantizer):
            continue
        with torch.no_grad():
            step = x.qparams()[0].double()
            least = (b.abs() / (step * 2**24)).to(torch.float32)
            channels = 1 if quantizer.axis is None else w.shape[quantizer.axis]  # of a grouped transposed one: of each group
            quantizer.floor = torch.clamp(least.reshape(-1, channels).amax(0), min=1e-9)
            scales = quantizer.scales(w).double()
            grid = step * (scales.repeat(len(b) // channels) if len(scales) > 1 else scales)
            b.copy_(((b.double() / grid).round() * grid).to(b.dtype))


def _widen(module: fx.GraphModule, node: fx.Node, least: float) -> None:
    """Let the scale of what a layer makes be `least` or more."""
    last = next(iter(node.users)) if fuses_into_next(node) else node
    made = next(filter(None, (_quantizer(module, user) for user in last.users)), None)
    if isinstance(made, ActivationQuantizer) and made.rounding and not made.fixed and made.qparams()[0] < least:
        base = made.base[0] if isinstance(made, Rescaled) else made
        base.high.fill_(LEVELS * least + min(float(base.low), 0.0))


def _quantizer(module: fx.GraphModule, node: Any) -> nn.Module | None:
    if isinstance(node, fx.Node) and node.op == "call_module":
        return module.get_submodule(str(node.target))
    return None


def output_qparams(module: fx.GraphModule) -> list[tuple[float, int] | None]:
    """Scale and uint8 zero point of each output; None where it stays in float."""
    found = []
    for quantizer in _last(module):
        scale, zero_point = quantizer.qparams()
        found.append((scale.item(), int(zero_point.item())) if quantizer.rounding else None)
    return found


def output_steps(module: fx.GraphModule) -> list[float]:
    """Of each output, one of 255 steps of its range: its scale, if it is rounded."""
    return [quantizer.qparams()[0].item() for quantizer in _last(module)]


def _last(module: fx.GraphModule) -> list[ActivationQuantizer]:
    quantizers = [_quantizer(module, node) for node in last_nodes(module)]
    assert all(isinstance(quantizer, ActivationQuantizer) for quantizer in quantizers)
    return quantizers  # type: ignore[return-value]
