"""FP8 training with delayed scaling: a reference that runs on any hardware (Micikevicius et al. 2022).

Inputs and weights are rounded to e4m3 in the forward pass, gradients to e5m2 in the backward pass; products are
accumulated in float32. Tensors for the backward pass stay in FP8: a quarter of the bytes of float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeloop_pipeline.results.training import Fp8Facts
from edgeloop_pipeline.training.settings import Float8

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {FORWARD: torch.finfo(FORWARD).max, BACKWARD: torch.finfo(BACKWARD).max}
INPUT, WEIGHT, GRADIENT = 0, 1, 2
TYPES = (FORWARD, FORWARD, BACKWARD)
ENGINE_CAPABILITY = (8, 9)  # CUDA compute capability with FP8 tensor cores: Ada, Hopper and later
MATMUL_MULTIPLE = 16  # both sizes must be multiples of it for torch._scaled_mm


class Scaling(nn.Module):
    """The scales of one layer's input, weight and gradient, and the maxima they come from. Checkpoints contain its buffers."""

    def __init__(self, settings: Float8, where: torch.device) -> None:
        super().__init__()
        self.settings = settings
        self.history: Tensor
        self.scale: Tensor
        self.saturated: Tensor
        self.register_buffer("history", torch.zeros(3, settings.history, device=where))
        self.register_buffer("scale", torch.zeros(3, device=where))  # 0: not set yet
        self.register_buffer("saturated", torch.zeros(3, dtype=torch.int64, device=where))  # steps whose maximum did not fit

    def rounded(self, x: Tensor, which: int) -> tuple[Tensor, Tensor]:
        """`x` in FP8, and its scale factor. Records the maximum of `x` for later steps."""
        dtype = TYPES[which]
        amax = x.detach().abs().max().float()
        scale = self.scale[which]
        if self.settings.scaling == "dynamic" or not scale:
            scale = wanted_scale(amax, dtype, self.settings.margin, torch.ones_like(amax))
        self.history[which, 0] = torch.maximum(self.history[which, 0], amax)
        largest = LARGEST[dtype]
        # Saturate, because a cast past the largest e4m3 value gives NaN.
        return (x.detach().float() * scale).clamp(-largest, largest).to(dtype), scale.clone()

    def advance(self) -> None:
        """Compute new scales from the window and move the window; call it after an optimizer step."""
        for which, dtype in enumerate(TYPES):
            newest = self.history[which, 0]
            self.saturated[which] += bool(self.scale[which] * newest > LARGEST[dtype] * 1.0001)
            amax = newest if self.settings.policy == "most_recent" else self.history[which].max()
            self.scale[which] = wanted_scale(amax, dtype, self.settings.margin, self.scale[which])
        self.history.copy_(self.history.roll(1, dims=1))
        self.history[:, 0] = 0


def wanted_scale(amax: Tensor, dtype: torch.dtype, margin: int, otherwise: Tensor) -> Tensor:
    """The scale that maps `amax` to the largest value, less `margin` powers of two; `otherwise` if amax is 0 or not finite."""
    known = torch.isfinite(amax) & (amax > 0)
    scale = LARGEST[dtype] / torch.where(known, amax, torch.ones_like(amax)) * 2.0**-margin
    return torch.where(known & torch.isfinite(scale), scale, otherwise)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scaling: Scaling, shape: tuple[Any, ...]) -> Tensor:
        (a, sa), (w, sw) = scaling.rounded(x, INPUT), scaling.rounded(weight, WEIGHT)
        ctx.save_for_backward(a, w, sa, sw)
        ctx.scaling, ctx.shape, ctx.bias = scaling, shape, bias is not None
        return torch.convolution(a.float() / sa, w.float() / sw, bias, *shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, w, sa, sw = ctx.saved_tensors
        g, sg = ctx.scaling.rounded(gradient, GRADIENT)
        sizes = [w.shape[0]] if ctx.bias else None
        mask = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias]
        stride, padding, dilation, transposed, output_padding, groups = ctx.shape
        dx, dw, db = torch.ops.aten.convolution_backward(
            g.float() / sg,
            a.float() / sa,
            w.float() / sw,
            sizes,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
            mask,
        )
        return dx, dw, db, None, None


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scaling: Scaling) -> Tensor:
        (a, sa), (w, sw) = scaling.rounded(x.flatten(0, -2), INPUT), scaling.rounded(weight, WEIGHT)
        ctx.save_for_backward(a, w, sa, sw)
        ctx.scaling, ctx.bias, ctx.leading = scaling, bias is not None, x.shape[:-1]
        answer: Tensor = product(a, w.t(), sa, sw).unflatten(0, x.shape[:-1])
        return answer if bias is None else answer + bias

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        a, w, sa, sw = ctx.saved_tensors
        flat = gradient.flatten(0, -2)
        g, sg = ctx.scaling.rounded(flat, GRADIENT)
        dx = product(g, w, sg, sw).unflatten(0, ctx.leading) if ctx.needs_input_grad[0] else None
        dw = product(g.t(), a, sg, sa) if ctx.needs_input_grad[1] else None
        return dx, dw, flat.sum(0) if ctx.bias else None, None


def product(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    """(M, K) × (K, N) of FP8 values, accumulated in float32; by `torch._scaled_mm` if the shapes allow it."""
    if a.shape[1] % MATMUL_MULTIPLE == 0 and b.shape[1] % MATMUL_MULTIPLE == 0 and not (a.dtype == b.dtype == BACKWARD):
        row, column = a.contiguous(), b.t().contiguous().t()
        found: Tensor = torch._scaled_mm(row, column, 1 / scale_a, 1 / scale_b, out_dtype=torch.float32)
        return found
    return (a.float() / scale_a) @ (b.float() / scale_b)


class _Float8(nn.Module):
    scaling: Scaling


class Float8Linear(_Float8, nn.Linear):
    """nn.Linear with FP8 products in training and plain ones in evaluation, because the float network ships."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        answer: Tensor = _Linear.apply(x, self.weight, self.bias, self.scaling)
        return answer


class _Float8Conv(_Float8):
    def forward(self, x: Tensor) -> Tensor:
        layer: Any = self
        shape = (layer.stride, layer.padding, layer.dilation, False, layer.output_padding, layer.groups)
        if not self.training:
            return torch.convolution(x, layer.weight, layer.bias, *shape)
        answer: Tensor = _Convolution.apply(x, layer.weight, layer.bias, self.scaling, shape)
        return answer


class Float8Conv1d(_Float8Conv, nn.Conv1d): ...


class Float8Conv2d(_Float8Conv, nn.Conv2d): ...


class Float8Conv3d(_Float8Conv, nn.Conv3d): ...


KINDS: dict[type, type] = {nn.Linear: Float8Linear, nn.Conv1d: Float8Conv1d, nn.Conv2d: Float8Conv2d, nn.Conv3d: Float8Conv3d}


def eligible(network: nn.Module) -> dict[str, nn.Module]:
    """Every convolution and linear layer, without the first and the last, where FP8 costs most accuracy."""
    layers = [(name, m) for name, m in network.named_modules() if type(m) in KINDS]
    return {
        name: m for name, m in layers[1:-1]
        if getattr(m, "padding_mode", "zeros") == "zeros" and not isinstance(getattr(m, "padding", 0), str)
    }  # fmt: skip


@contextmanager
def converted(network: nn.Module, settings: Float8) -> Iterator[list[str]]:
    """Context: the network with FP8 layers, in place; plain again afterwards. Gives the names of the layers."""
    chosen = eligible(network)
    for layer in chosen.values():
        plain = type(layer)
        weight: Any = layer.weight
        layer.__class__ = KINDS[plain]
        layer.add_module("scaling", Scaling(settings, weight.device))
    try:
        yield list(chosen)
    finally:
        for layer in chosen.values():
            layer.__class__ = next(plain for plain, kind in KINDS.items() if kind is type(layer))
            del layer._modules["scaling"]


def engine_serves(settings: Float8) -> bool:
    """Whether this machine has FP8 engines and NVIDIA's Transformer Engine, which has only delayed scaling."""
    from accelerate.utils import is_transformer_engine_available

    capable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= ENGINE_CAPABILITY
    return capable and settings.scaling == "delayed" and is_transformer_engine_available()


@contextmanager
def by_engine(network: nn.Module, settings: Float8) -> Iterator[list[str]]:
    """Context: Transformer Engine runs the linear and LayerNorm layers; plain again afterwards. Gives their names."""
    from types import MethodType

    from accelerate import Accelerator
    from accelerate.utils.transformer_engine import contextual_fp8_autocast, convert_model
    from transformer_engine.common.recipe import DelayedScaling, Format

    Accelerator(cpu=not torch.cuda.is_available())  # the conversion of layers needs its state
    # A separate recipe: accelerate's omits most_recent as its default, and the engine then uses its own default, max.
    recipe = DelayedScaling(
        margin=settings.margin, fp8_format=Format.HYBRID, amax_history_len=settings.history, amax_compute_algo=settings.policy
    )
    before = dict(network.named_modules())
    with torch.no_grad():
        convert_model(network)
    network.__dict__["forward"] = MethodType(contextual_fp8_autocast(network.forward, recipe), network)
    replaced = {name: module for name, module in network.named_modules() if before.get(name) is not module}
    try:
        yield list(replaced)
    finally:
        network.__dict__.pop("forward", None)
        for name, module in replaced.items():  # accelerate's own reverse conversion (1.15) reads attributes that nn.Linear lacks
            own = {key: value for key, value in module.state_dict().items() if not key.endswith("_extra_state")}
            before[name].load_state_dict(own)
            network.set_submodule(name, before[name])


def scalings(network: nn.Module) -> list[Scaling]:
    return [m for m in network.modules() if isinstance(m, Scaling)]


def advance(network: nn.Module) -> None:
    """Advance all FP8 layers, once per optimizer step. Several processes first agree on the largest maxima."""
    found = scalings(network)
    if found and torch.distributed.is_available() and torch.distributed.is_initialized():
        newest = torch.stack([s.history[:, 0] for s in found])
        torch.distributed.all_reduce(newest, torch.distributed.ReduceOp.MAX)
        for scaling, row in zip(found, newest, strict=True):
            scaling.history[:, 0] = row
    for scaling in found:
        scaling.advance()


def facts(network: nn.Module) -> Fp8Facts:
    """The facts about FP8 for the report."""
    found = scalings(network)
    saturated = sum((s.saturated for s in found), torch.zeros(3, dtype=torch.int64)).tolist() if found else [0, 0, 0]
    return Fp8Facts(
        layers=len(found),
        history_bytes=sum(s.history.numel() * s.history.element_size() for s in found),
        saturated_steps=dict(zip(("input", "weight", "gradient"), saturated, strict=True)),
    )
