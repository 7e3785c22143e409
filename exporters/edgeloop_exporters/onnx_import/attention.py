"""Attention and what belongs to it, as products and a softmax, which the quantizer knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value, alike

__all__ = ["FILL", "attend", "causal", "dense", "heads", "joined", "rotated"]

FILL = -1e9  # a score that softmax makes exactly zero, and no infinity


def heads(build: Builder, x: Value, count: int) -> Value:
    """(N, S, count · D) to (N, count, S, D)."""
    if x.shape[2] % count:
        raise Unsupported(f"of {x.shape[2]} values for {count} heads")
    return build.call(torch.permute, build.call(torch.unflatten, x, 2, [count, -1]), [0, 2, 1, 3])


def joined(build: Builder, x: Value) -> Value:
    """(N, H, S, D) to (N, S, H · D)."""
    return build.call(torch.flatten, build.call(torch.permute, x, [0, 2, 1, 3]), 2)


def attend(
    build: Builder, q: Value, k: Value, v: Value, scale: float, masks: Sequence[Value] = (), softcap: float = 0.0
) -> Value:  # fmt: skip
    """softmax(q · k · scale + masks) · v; each (N, heads, S, D), with fewer heads of k and v where several share one."""
    k, v = _shared(build, k, q.shape[1]), _shared(build, v, q.shape[1])
    scores = build.call(torch.matmul, q, build.call(torch.permute, k, [0, 1, 3, 2]))
    scores = build.call(torch.mul, scores, scale)
    if softcap:
        scores = build.call(torch.mul, build.call(torch.tanh, build.call(torch.mul, scores, 1.0 / softcap)), softcap)
    for mask in masks:
        scores = build.call(torch.add, scores, mask)
    return build.call(torch.matmul, build.call(torch.softmax, scores, -1), v)


def _shared(build: Builder, x: Value, count: int) -> Value:
    if x.shape[1] == count:
        return x
    if count % x.shape[1]:
        raise Unsupported(f"of {count} heads that share {x.shape[1]}")
    more = build.call(Tensor.expand, build.call(torch.unsqueeze, x, 2), [-1, -1, count // x.shape[1], -1, -1])
    return build.call(torch.flatten, more, 1, 2)


def causal(build: Builder, queries: int, keys: int) -> Value:
    """What is added to scores, so that no query sees a key behind it."""
    later = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return build.tensor(torch.zeros(queries, keys).masked_fill(later, FILL))


@handles("Attention")
def _attention(node: Node) -> list[Value]:
    """The usual forms. The others are left to the operator's definition: Unsupported."""
    build, q, k, v = node.build, node[0], node[1], node[2]
    if node.maybe(6) is not None or sum(node.wanted[3:]) or max(_windows(node)) >= 0:
        raise Unsupported("with lengths, windows, or scores as an output")
    flat = q.rank == 3
    if flat:
        q, k, v = (heads(build, x, int(node.get(f"{n}_num_heads"))) for x, n in ((q, "q"), (k, "kv"), (v, "kv")))
    past = [node.maybe(4), node.maybe(5)]
    if past[0] is not None and past[1] is not None:
        k, v = build.call(torch.cat, [past[0], k], 2), build.call(torch.cat, [past[1], v], 2)
    masks = _masks(node, q.shape[2], k.shape[2], past[0] is not None)
    made = attend(build, q, k, v, float(node.get("scale", 1 / math.sqrt(q.shape[3]))), masks, float(node.get("softcap", 0.0)))
    return [joined(build, made) if flat else made, k, v]


def _windows(node: Node) -> tuple[int, int]:
    return int(node.get("left_window_size", -1)), int(node.get("right_window_size", -1))


def _masks(node: Node, queries: int, keys: int, has_past: bool) -> list[Value]:
    given, build = node.maybe(3), node.build
    ahead = bool(node.get("is_causal", 0))
    if ahead and queries != keys and not has_past:
        raise Unsupported("causal with more keys than queries")
    found = [causal(build, queries, keys)] if ahead else []
    if given is None:
        return found
    # A row that sees no key at all is zero by definition; softmax would make it something else.
    if not given.is_constant or given.shape[-1] != keys:
        raise Unsupported("with a mask that the data decide")
    added = given.a if given.dtype != torch.bool else torch.zeros(given.shape).masked_fill(~given.a, FILL)
    seen = added > FILL / 2
    if ahead:
        seen = seen & (found[0].a > FILL / 2)
    if not bool(seen.any(-1).all()):
        raise Unsupported("with a mask that hides all keys")
    return [*found, build.tensor(added.clamp(min=FILL))]


@handles("RotaryEmbedding")
def _rotary(node: Node) -> Value:
    """(N, heads, S, D), or (N, S, heads · D)."""
    x, cos, sin, build = node[0], node[1], node[2], node.build
    flat, count = x.rank == 3, int(node.get("num_heads", 0))
    x = heads(build, x, count) if flat else x
    places = node.maybe(3)
    made = rotated(build, x, (cos, sin), places, int(node.get("rotary_embedding_dim", 0)), bool(node.get("interleaved", 0)))
    return joined(build, made) if flat else made


def rotated(build: Builder, x: Value, caches: tuple[Value, Value], places: Value | None, size: int, interleaved: bool) -> Value:
    """Pairs of each head turned by the angle of their place. `caches`: cosines and sines, (places, D / 2) or (N, S, D / 2)."""
    call = build.call
    size = size or x.shape[3]
    whole, rest = x, None
    if size < x.shape[3]:
        whole, rest = call(torch.narrow, x, 3, 0, size), call(torch.narrow, x, 3, size, x.shape[3] - size)
    turned = []
    for cache in caches:
        chosen = cache if places is None else _picked(build, cache, places)
        turned.append(call(torch.unsqueeze, chosen, 1))  # (N, 1, S, size / 2)
    cos, sin = turned
    if interleaved:
        first, second = (call(torch.select, call(torch.unflatten, whole, 3, [-1, 2]), 4, i) for i in (0, 1))
    else:
        first, second = (call(torch.narrow, whole, 3, i * size // 2, size // 2) for i in (0, 1))
    real = call(torch.sub, call(torch.mul, first, cos), call(torch.mul, second, sin))
    imaginary = call(torch.add, call(torch.mul, first, sin), call(torch.mul, second, cos))
    if interleaved:
        made = call(torch.flatten, call(torch.stack, [real, imaginary], -1), 3)
    else:
        made = call(torch.cat, [real, imaginary], 3)
    return made if rest is None else call(torch.cat, [made, rest], 3)


def _picked(build: Builder, cache: Value, places: Value) -> Value:
    """(N, S, D / 2): a row for each place."""
    if places.rank != 2:
        raise Unsupported(f"with places of {places.rank} axes")
    if places.is_static and (same := alike(places)) is not None:
        return build.call(torch.unsqueeze, build.call(torch.index_select, cache, 0, build.tensor(same)), 0)
    rows = build.call(torch.index_select, cache, 0, build.call(torch.flatten, places))
    return build.call(torch.unflatten, rows, 0, [build.size(places.a.shape[0], places.b.shape[0]), places.shape[1]])


def dense(build: Builder, name: str, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """x · weight + bias, as a layer. `weight`: (inputs, outputs)."""
    layer = nn.Linear(weight.shape[0], weight.shape[1], bias=bias is not None)
    layer.weight = nn.Parameter(weight.T.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.reshape(-1).clone())
    return build.layer(name, layer, x)
