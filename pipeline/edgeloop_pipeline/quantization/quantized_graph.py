"""Makes, calibrates, saves and loads the quantized graph of a network, always by the same plan."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx

from edgeloop_contract.arrays import Array, evenly_spaced_rows
from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_contract.settings import nearest
from edgeloop_exporters import bias_correction, equalization, outliers, quantization, rounding
from edgeloop_exporters.convolutions import cropped_paddings
from edgeloop_exporters.graph import WEIGHTED, fold_batchnorm, layer_name, trace
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_exporters.quantizers import SEEN_A_BATCH, ActivationQuantizer
from edgeloop_exporters.ranges import Method
from edgeloop_exporters.rewrites import trailing_softmax
from edgeloop_exporters.simplification import simplify
from edgeloop_exporters.symmetric_plan import symmetric_plan
from edgeloop_pipeline.data.types import PreparedSplits
from edgeloop_pipeline.networks.saved_network import Saved
from edgeloop_pipeline.training.scoring import channels_last, evaluation_batch

QUANTIZED, SYMMETRIC = "quantized", "symmetric"  # beginnings of file names: of the graph of all files, and of TensorRT's
STATE, PLAN = "{}.safetensors", "{}.json"
EQUALIZE_SAMPLES, MIN_SOME = 128, 16
SOME_VALUES = 3_000_000  # they go through the network at once
OBSERVED_BATCH = 64
MOST_SEEN = 262_144  # values of one tensor that ranges are chosen by: of large samples, which come one by one, fewer each


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide the form of a quantized graph."""

    method: Method = "minmax"
    percentile: float = 99.99
    equalize: bool = False
    through_gates: bool = False
    correct_biases: bool = False
    round_by_inputs: bool = False
    float_layers: tuple[str, ...] = ()
    float_streams: bool = False
    float_front: int = 0
    symmetric: bool = False


@dataclass(frozen=True)
class Graph:
    """A folded graph with quantizers in it.

    `floats`: its parameters by name before calibration changed any; `nodes`: its number of operations when traced,
    simplified, and folded; `rounded`: the weights that `choose` rounded last by their inputs, for the next step on the same ranges.
    """

    module: fx.GraphModule
    plan: quantization.QuantizationPlan
    normalization: InputNormalization
    folded: int
    options: Options
    floats: dict[str, Tensor]
    equalized: tuple[str, ...] = ()
    nodes: tuple[int, int, int] = (0, 0, 0)
    rounded: dict[tuple[Method, float], dict[str, Tensor]] = field(default_factory=dict)


def folded(saved: Saved, splits: PreparedSplits) -> tuple[fx.GraphModule, int]:
    """The network's float graph with BatchNorm folded, and the number of folded ones."""
    module, count, _ = _folded(saved, splits)
    return module, count


def _folded(saved: Saved, splits: PreparedSplits) -> tuple[fx.GraphModule, int, tuple[int, int, int]]:
    sample = saved.normalization.normalize(torch.from_numpy(splits.train.values[:2]))
    # A copy: the graph shares its parameters with the traced network, and folding, equalizing and rounding change them.
    module = trace(copy.deepcopy(saved.network), sample)
    sizes = [_operations(module)]
    simplify(module)
    if splits.task == "classification":  # in other tasks, a softmax's values are the answer
        trailing_softmax(module)
    sizes.append(_operations(module))
    count = fold_batchnorm(module)
    cropped_paddings(module)
    return module, count, (sizes[0], sizes[1], _operations(module))


def _some(values: Array) -> Array:
    """Samples for equalization and rounding, always the same ones, because they decide the graph's form: of large samples fewer."""
    return values[evenly_spaced_rows(len(values), max(MIN_SOME, min(EQUALIZE_SAMPLES, SOME_VALUES // max(1, values[0].size))))]


def _operations(module: fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in module.graph.nodes)


def layers(module: fx.GraphModule, floating: Collection[str] = ()) -> list[str]:
    """The names of the layers with weights, in order, without those whose nodes are in `floating`."""
    nodes = [node for node in module.graph.nodes if node.target in WEIGHTED and node.name not in floating]
    return list(dict.fromkeys(map(layer_name, nodes)))


def left_in_float(graph: Graph) -> int:
    """The number of layers with weights that stay in float for accuracy's sake."""
    return _count(graph, graph.plan.floating - graph.plan.decoding - graph.plan.front)


def float_anyway(graph: Graph) -> int:
    """The number of layers with weights that decode boxes, or make a spectrum of the input."""
    return _count(graph, graph.plan.decoding | graph.plan.front)


def spectrum_layers(graph: Graph) -> int:
    return _count(graph, graph.plan.front)


def _count(graph: Graph, names: Collection[str]) -> int:
    return sum(node.target in WEIGHTED and node.name in names for node in graph.module.graph.nodes)


def samples_of(normalization: InputNormalization, values: Array) -> Tensor:
    x: Tensor = channels_last(normalization.normalize(torch.from_numpy(values)))
    return x


def prepare(saved: Saved, splits: PreparedSplits, options: Options | None = None) -> Graph:
    """Trace, fold, equalize, plan and insert the quantizers, all switched off."""
    options = options or Options()
    module, count, nodes = _folded(saved, splits)
    known = layers(module)
    for name in options.float_layers:
        if name not in known:
            raise UsageError(f"stages.quantize.float_layers: {name!r} is no layer with weights{nearest(name, known)}")
    equalized: list[str] = []
    outliers.migrate_outliers(module, samples_of(saved.normalization, _some(splits.train.values)))
    bias_correction.add_biases(module)  # of every graph, so that one graph serves with and without the correction
    if options.equalize:
        some = samples_of(saved.normalization, _some(splits.train.values))
        equalized = equalization.equalize(module, some, options.through_gates)
    if options.symmetric:
        plan = symmetric_plan(module, options.float_layers, options.float_streams, options.float_front)
    else:
        counts = saved.normalization.input_qparams
        plan = quantization.plan(module, counts, options.float_layers, options.float_streams, options.float_front)
    quantization.insert(module, plan)
    floats = {name: value.detach().clone() for name, value in module.named_parameters()}
    return Graph(module, plan, saved.normalization, count, options, floats, tuple(equalized), nodes)


def observe(graph: Graph, values: Array) -> None:
    """Let every quantizer see these raw samples."""
    quantization.set_mode(graph.module, "observe", "off")
    with torch.no_grad():
        size = min(OBSERVED_BATCH, evaluation_batch(values))
        quantizers = [child for child in graph.module.modules() if isinstance(child, ActivationQuantizer)]
        for quantizer in quantizers:
            quantizer.kept_a_batch = max(1, min(SEEN_A_BATCH, MOST_SEEN * size // len(values)))
        for start in range(0, len(values), size):
            graph.module(samples_of(graph.normalization, values[start : start + size]))


def choose(graph: Graph, values: Array, method: Method | None = None) -> None:
    """Choose the ranges from the observed values, by the graph's method or another one, and switch to integers."""
    module, options = graph.module, graph.options
    ranges = (method or options.method, options.percentile)
    put(module, graph.floats)
    quantization.choose_ranges(module, *ranges)
    some = samples_of(graph.normalization, _some(values))
    if options.correct_biases:
        quantization.set_mode(module, "off", "off")
        wanted = bias_correction.means(module, some)
    quantization.set_mode(module, "quantize", "quantize")
    if options.round_by_inputs and ranges in graph.rounded:
        put(module, graph.rounded[ranges])
    elif options.round_by_inputs:
        rounding.round_weights(module, some)
        graph.rounded.clear()
        graph.rounded[ranges] = {name: value.detach().clone() for name, value in module.named_parameters()}
    if options.correct_biases:
        bias_correction.correct_biases(module, some, wanted)
    quantization.settle(module)


def put(module: fx.GraphModule, values: dict[str, Tensor]) -> None:
    """Give parameters these values, by name."""
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)


def snapshot(graph: Graph) -> dict[str, Tensor]:
    """What `choose` changes: parameters, ranges and scales."""
    return {name: tensor.detach().clone() for name, tensor in graph.module.state_dict().items()}


def restore(graph: Graph, kept: dict[str, Tensor]) -> None:
    """Take back what `choose` did since the snapshot."""
    graph.module.load_state_dict(_reshaped(graph.module, kept))


def forget(graph: Graph) -> None:
    """Free the samples that calibration observed, and what was made of them."""
    graph.rounded.clear()
    for child in graph.module.modules():
        if isinstance(child, ActivationQuantizer):
            child.forget()


def calibrate(graph: Graph, values: Array) -> None:
    """Calibrate the graph: observe the values, choose the ranges, forget the values."""
    observe(graph, values)
    choose(graph, values)
    forget(graph)


def save(folder: Path, graph: Graph) -> None:
    name = SYMMETRIC if graph.options.symmetric else QUANTIZED
    state = {name: tensor.detach().contiguous().clone() for name, tensor in graph.module.state_dict().items()}
    save_file(state, str(folder / STATE.format(name)))
    described = {"points": graph.plan.points, "weights": graph.plan.weights, "options": graph.options}
    (folder / PLAN.format(name)).write_bytes(msgspec.json.encode(described, order="sorted"))


def load_symmetric(saved: Saved, splits: PreparedSplits, folder: Path) -> Graph | None:
    """TensorRT's graph, if one was asked for."""
    return load(saved, splits, folder, SYMMETRIC) if (folder / PLAN.format(SYMMETRIC)).is_file() else None


def load(saved: Saved, splits: PreparedSplits, folder: Path, name: str = QUANTIZED) -> Graph:
    """The graph that `save` kept, rebuilt from the float network it was made of."""
    described = msgspec.json.decode((folder / PLAN.format(name)).read_bytes())
    graph = prepare(saved, splits, msgspec.convert(described["options"], Options))
    try:
        graph.module.load_state_dict(_reshaped(graph.module, load_file(str(folder / STATE.format(name)))))
    except (RuntimeError, KeyError) as error:
        raise ModelError(f"{folder}: no longer fits the network ({error}); run again from quantize") from error
    quantization.set_mode(graph.module, "quantize", "quantize")
    graph.module.eval()
    return graph


def _reshaped(module: fx.GraphModule, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give fresh weight quantizers the shape of the saved ones: a bounded quantizer keeps one floor per channel."""
    for name, tensor in state.items():
        if name.endswith(".floor"):
            module.get_submodule(name.removesuffix(".floor")).floor = tensor.clone()
    return state


def equalized_in_words(places: tuple[str, ...]) -> str:
    """Where equalization rescaled channels."""
    if not places:
        return "no two layers between which channels can be rescaled"
    return f"channels rescaled in {len(places)} places, the first {places[0]}"
