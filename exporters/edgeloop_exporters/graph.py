"""A torch network as one flat graph of ATen operations, BatchNorm folded away: the form that is quantized and exported."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.network_failure import explain_failure

__all__ = [
    "CONVOLUTIONS", "MAX_BATCH", "TRANSPOSED", "WEIGHTED", "aten", "channel_axis", "explain_failure", "fold_batchnorm",
    "layer_name", "set_parameter", "tensor_of", "trace",
]  # fmt: skip

aten = torch.ops.aten
MAX_BATCH = 4096
CONVOLUTIONS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)
WEIGHTED = (*CONVOLUTIONS, aten.linear.default)


def trace(network: nn.Module, sample: Tensor) -> fx.GraphModule:
    """Trace `network` in evaluation mode with a free batch dimension.

    `sample`: (N, channels, ...) float32, N >= 2. Parameters keep their names. Raises ModelError with the line or
    module that cannot be traced.
    """
    network = network.eval()
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's talk of its own attributes
            program = torch.export.export(network, (sample,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises a dozen unrelated types; all mean the same to the user
        raise ModelError(explain_failure(network, sample, error)) from error
    module = program.module(check_guards=False)
    # A plain GraphModule: torch.export's own refuses train() and eval().
    module = fx.GraphModule(module, module.graph)
    for node in module.graph.nodes:
        if node.op == "call_function" and hasattr(nn.Module, node.name):  # a cast is called `to`, and no submodule can be
            node._rename(f"{node.name}_1")
    output = next(n for n in module.graph.nodes if n.op == "output").args[0]
    if not (isinstance(output, tuple) and len(output) == 1):
        raise ModelError(
            f"{type(network).__name__}: returns {_count(output)} outputs; return one tensor of scores, or a dict of named tensors"
        )
    return module


def _count(output: object) -> str:
    return str(len(output)) if isinstance(output, tuple) else "an unusual number of"


def layer_name(node: fx.Node) -> str:
    """Name of the innermost module that made `node` ('' for the network's own forward)."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    return names[-1].removeprefix("L['self'].").replace("slice(None, None, None)", ":") if names else ""


def channel_axis(node: Any) -> int:
    """Of what a layer with weights hands on."""
    return int(node.meta["val"].dim() - 1) if node.target is aten.linear.default else 1


def tensor_of(module: nn.Module, node: Any) -> Tensor | None:
    """The parameter or buffer that a get_attr node reads, else None."""
    if not (isinstance(node, fx.Node) and node.op == "get_attr"):
        return None
    value = operator.attrgetter(str(node.target))(module) if not str(node.target)[0].isdigit() else _walk(module, node)
    return value if isinstance(value, Tensor) else None


def _walk(module: nn.Module, node: fx.Node) -> Any:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def set_parameter(module: nn.Module, name: str, value: Tensor, trained: bool = True) -> None:
    """Give `module` the parameter `name` (dotted), making it if it is new. Without `trained`, it has no gradient."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value.detach().clone(), requires_grad=trained))


def fold_batchnorm(module: fx.GraphModule) -> int:
    """Fold every BatchNorm that follows a convolution or linear layer into its weights; returns how many.

    Exact up to float rounding (Jacob et al. 2018, section 3.2). A BatchNorm elsewhere becomes a depthwise convolution of
    one place, which integer kernels can do. Products with constants and sums with them behind such a layer are folded too.
    """
    folded = 0
    for norm in list(module.graph.nodes):
        if norm.target is not aten.batch_norm.default:
            continue
        layer = norm.args[0]
        weight = tensor_of(module, layer.args[1]) if layer.target in WEIGHTED else None
        if weight is None or len(layer.users) > 1 or len(layer.args[1].users) > 1:
            _as_convolution(module, norm)
            continue
        _change_outputs(module, layer, weight, *_scale_and_shift(module, norm))
        # The fused layer answers for both: it keeps the BatchNorm's place in the user's module tree for messages.
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
        folded += 1
    _fold_constants(module)
    _fold_minus(module)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return folded


def _change_outputs(module: fx.GraphModule, layer: Any, weight: Tensor, factor: Tensor, shift: Tensor) -> None:
    """Let the layer make outputs · factor + shift, both (outputs,) float64."""
    old = tensor_of(module, layer.args[2]) if len(layer.args) > 2 else None
    with torch.no_grad():
        bias = shift if old is None else old.double() * factor + shift
        scaled = weight.double() * _along_outputs(layer, weight, factor)
    name = str(layer.args[1].target)
    bias_name = name.removesuffix("weight") + "bias" if name.endswith("weight") else name + "_bias"
    set_parameter(module, name, scaled.to(weight.dtype))
    set_parameter(module, bias_name, bias.to(weight.dtype))
    with module.graph.inserting_before(layer):
        bias_node = module.graph.get_attr(bias_name)
    layer.args = (layer.args[0], layer.args[1], bias_node, *layer.args[3:])


def _fold_constants(module: fx.GraphModule) -> None:
    """Products and sums with one number, or one for each channel, straight behind a layer that nobody else reads."""
    for node in list(module.graph.nodes):
        if node.target not in (aten.mul.Tensor, aten.add.Tensor) or len(node.args) != 2 or node.kwargs:
            continue
        operands: Any = node.args
        for layer, constant in (operands, operands[::-1]):
            if getattr(layer, "target", None) not in WEIGHTED or len(layer.users) > 1:
                continue
            weight, value = tensor_of(module, layer.args[1]), tensor_of(module, constant)
            if weight is None or value is None or len(layer.args[1].users) > 1:
                continue
            outputs, axis = int(layer.meta["val"].shape[channel_axis(layer)]), channel_axis(layer)
            along = [1] * layer.meta["val"].dim()
            along[axis] = outputs
            padded = (*[1] * (len(along) - value.dim()), *value.shape)
            if len(padded) != len(along) or (value.numel() != 1 and list(padded) != along):
                continue
            each = value.detach().double().reshape(-1).expand(outputs)
            product = node.target is aten.mul.Tensor
            _change_outputs(module, layer, weight, each if product else torch.ones(outputs).double(),
                            torch.zeros(outputs).double() if product else each)  # fmt: skip
            node.replace_all_uses_with(layer)
            module.graph.erase_node(node)
            break


def _fold_minus(module: fx.GraphModule) -> None:
    """a − layer is a + the negative layer, where nobody else reads that: ONNX Runtime has no difference of integers."""
    for node in module.graph.nodes:
        if node.target is not aten.sub.Tensor or len(node.args) != 2 or node.kwargs or tensor_of(module, node.args[0]) is not None:
            continue
        first, layer = node.args
        weight = tensor_of(module, layer.args[1]) if getattr(layer, "target", None) in WEIGHTED and len(layer.users) == 1 else None
        if weight is None or len(layer.args[1].users) > 1 or not isinstance(first, fx.Node):
            continue
        outputs = int(layer.meta["val"].shape[channel_axis(layer)])
        _change_outputs(module, layer, weight, torch.full((outputs,), -1.0).double(), torch.zeros(outputs).double())
        node.target = aten.add.Tensor


def _scale_and_shift(module: fx.GraphModule, norm: Any) -> tuple[Tensor, Tensor]:
    """The BatchNorm as x · scale + shift, float64 per channel."""
    gamma, beta, mean, variance = (tensor_of(module, node) for node in norm.args[1:5])
    assert mean is not None and variance is not None
    with torch.no_grad():
        scale = torch.rsqrt(variance.double() + norm.args[7]) * (1.0 if gamma is None else gamma.double())
        return scale, (0.0 if beta is None else beta.double()) - mean.double() * scale


def _along_outputs(layer: Any, weight: Tensor, factor: Tensor) -> Tensor:
    """`factor` (outputs,) in a shape that multiplies `weight` by output channel."""
    if layer.target not in TRANSPOSED:
        return factor.reshape(-1, *[1] * (weight.dim() - 1))
    # (inputs, outputs / groups, ...): each group of inputs makes its own outputs.
    groups = int(layer.args[6]) if len(layer.args) > 6 else 1
    by_group = factor.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return by_group.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))


def _as_convolution(module: fx.GraphModule, norm: Any) -> None:
    rank = norm.args[0].meta["val"].dim()
    if rank not in (3, 4):
        return
    scale, shift = _scale_and_shift(module, norm)
    name = f"{norm.name}_as_convolution"
    set_parameter(module, f"{name}_weight", scale.float().reshape(-1, 1, *[1] * (rank - 2)))
    set_parameter(module, f"{name}_bias", shift.float())
    places = rank - 2
    with module.graph.inserting_before(norm):
        weight, bias = (module.graph.get_attr(f"{name}_{part}") for part in ("weight", "bias"))
    norm.target = aten.conv2d.default if rank == 4 else aten.conv1d.default
    norm.args = (norm.args[0], weight, bias, [1] * places, [0] * places, [1] * places, len(scale))
