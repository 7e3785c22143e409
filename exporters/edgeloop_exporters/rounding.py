"""Weights rounded by what a layer's inputs look like, instead of each to the nearest integer; no training.

Neighbouring pixels and channels rise and fall together, so that errors of the weights that meet them add up. Weights are
rounded one after the other, and those still to come make good, as far as they can, for the error so far: Optimal Brain
Quantization (Frantar and Alistarh 2022), in the common order of GPTQ (Frantar et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from edgeloop_exporters.graph import TRANSPOSED, WEIGHTED, aten, tensor_of
from edgeloop_exporters.quantizers import WEIGHT_MAX, WeightQuantizer

DAMPING = 0.01  # of the mean of the second moments' diagonal: weights of faint inputs must not be played off against each other
MAX_VALUES = 2**24  # of a layer's inputs that are looked at
MAX_ROWS = 16_384
BLOCK = 64  # weights; those after them hear of a block's errors at once, which costs one product instead of many small ones


def round_weights(module: fx.GraphModule, x: Tensor) -> None:
    """Move weights to the integers' grid so that layers' outputs change least.

    `module`: a calibrated graph with its quantizers on, changed in place; `x`: normalized samples. Layers follow in order,
    each seeing what the rounded ones before it hand on. The largest weight of a channel stays, so that its scale does.
    Weights that several layers share, and those of transposed and three-dimensional convolutions, go to the nearest integer.
    """
    with torch.no_grad():
        _Rounder(module).run(x)


class _Rounder(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        source: Any = n.args[1] if n.target in WEIGHTED and n.target not in TRANSPOSED else None
        if source is not None and source.op == "call_module" and len(source.users) == 1 and len(source.args[0].users) == 1:
            quantizer, weight = self.module.get_submodule(str(source.target)), tensor_of(self.module, source.args[0])
            kernel = () if weight is None else tuple(weight.shape[2:])
            seen = _seen(n, self.env[n.args[0]], kernel)  # type: ignore[index]
            if isinstance(quantizer, WeightQuantizer) and weight is not None and seen is not None:
                weight.copy_(_rounded(weight, seen, quantizer.scales(weight)))
                self.env[source] = quantizer(weight)
        return super().run_node(n)


def _seen(node: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """(groups, rows, weights of one output): what each of a layer's weights meets, at places picked at random.

    `x`: (N, channels, ...), or (..., channels) of a linear layer; `shape`: the kernel's. None: for layers not known here.
    """
    if node.target is aten.linear.default:
        rows = x.flatten(0, -2)
        return rows[:: max(1, len(rows) // MAX_ROWS)].unsqueeze(0)
    places = x.dim() - 2
    if places not in (1, 2):
        return None
    given = [list(width) for width in node.args[3:6]]
    defaults = [[1] * places, [0] * places, [1] * places]
    stride, padding, dilation = given + defaults[len(given) :]
    groups = int(node.args[6]) if len(node.args) > 6 else 1
    x = functional.pad(x, [p for width in reversed(padding) for p in (width, width)])
    if places == 1:
        x, shape, stride, dilation = x.unsqueeze(2), (1, *shape), [1, *stride], [1, *dilation]
    outputs = [(size - d * (k - 1) - 1) // s + 1 for size, d, k, s in zip(x.shape[2:], dilation, shape, stride, strict=True)]
    total, values = outputs[0] * outputs[1], x.shape[0] * x.shape[1] * shape[0] * shape[1]
    count = max(1, min(total, MAX_VALUES // values, MAX_ROWS // len(x)))
    picked = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]
    first, second = (
        corner[:, None] * s + torch.arange(k) * d
        for corner, s, k, d in zip((picked // outputs[1], picked % outputs[1]), stride, shape, dilation, strict=True)
    )
    patches: Tensor = x[:, :, first[:, :, None], second[:, None, :]]  # (N, channels, places, kernel's rows, its columns)
    seen: Tensor = patches.unflatten(1, [groups, -1]).permute(1, 0, 3, 2, 4, 5).flatten(3).flatten(1, 2)
    return seen


def _rounded(weight: Tensor, seen: Tensor, scales: Tensor) -> Tensor:
    """`weight`: (outputs, ...); `seen`: (groups, rows, weights of one output); `scales`: (outputs,) or (1,)."""
    groups = len(seen)
    w = weight.detach().reshape(groups, weight.shape[0] // groups, -1)
    scale = scales.expand(weight.shape[0]).reshape(groups, -1, 1)
    moments = (seen.transpose(1, 2) @ seen).double()
    own = moments.diagonal(dim1=1, dim2=2)
    order = own.argsort(dim=1, descending=True)
    moments += torch.diag_embed((DAMPING * own.mean(1, keepdim=True) + 1e-12).expand_as(own))
    rows = order[:, None, :].expand_as(w)
    w = w.gather(2, rows)
    moments = moments.gather(1, order[:, :, None].expand_as(moments)).gather(2, order[:, None, :].expand_as(moments))
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True).float()
    peak = w.abs().argmax(2, keepdim=True)
    largest = w.gather(2, peak)
    result = torch.empty_like(w)
    for start in range(0, w.shape[2], BLOCK):
        end = min(start + BLOCK, w.shape[2])
        block = w[:, :, start:end].permute(2, 0, 1).contiguous()  # (weights, groups, outputs): one weight's values lie together
        errors = torch.empty_like(block)
        for i, at in enumerate(range(start, end)):
            value = torch.where(peak == at, largest, block[i, ..., None])
            grid = ((value / scale).round().clamp(-WEIGHT_MAX, WEIGHT_MAX) * scale)[..., 0]
            result[:, :, at] = grid
            errors[i] = (block[i] - grid) / inverse[:, at, at, None]
            block[i + 1 :] -= errors[i] * inverse[:, at, at + 1 : end].T[..., None]
        w[:, :, end:] -= errors.permute(1, 2, 0) @ inverse[:, start:end, end:]
    return torch.empty_like(w).scatter_(2, rows, result).reshape(weight.shape)
