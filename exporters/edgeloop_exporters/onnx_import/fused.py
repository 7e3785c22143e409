"""Operators of the domain com.microsoft: what ONNX Runtime's optimizers put together, taken apart again."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeloop_exporters.onnx_import.attention import FILL, attend, causal, dense, heads, joined, rotated
from edgeloop_exporters.onnx_import.table import HANDLERS, Node, handles
from edgeloop_exporters.onnx_import.values import Builder, Unsupported, Value

DOMAIN = "com.microsoft"
HANDLERS.update({f"{DOMAIN}.{name}": HANDLERS[name] for name in ("Gelu", "Trilu", "GridSample") if name in HANDLERS})


@handles(f"{DOMAIN}.Gelu", f"{DOMAIN}.BiasGelu", f"{DOMAIN}.FastGelu", f"{DOMAIN}.QuickGelu")
def _gelu(node: Node) -> Value:
    x, bias, call = node[0], node.maybe(1), node.build.call
    x = x if bias is None else call(torch.add, x, bias)
    if node.op == "QuickGelu":
        alpha = float(node.get("alpha", 1.702))
        return call(torch.mul, x, call(torch.sigmoid, x if alpha == 1.0 else call(torch.mul, x, alpha)))
    return call(F.gelu, x, approximate="tanh" if node.op == "FastGelu" else "none")


@handles(f"{DOMAIN}.SkipLayerNormalization", f"{DOMAIN}.SkipSimplifiedLayerNormalization")
def _skip_norm(node: Node) -> list[Value | None]:
    """The normalized sum, and the sum itself as the fourth output."""
    plain, call = node.op == "SkipSimplifiedLayerNormalization", node.build.call
    total = call(torch.add, node[0], node[1])
    more = node.maybe(3 if plain else 4)
    total = total if more is None else call(torch.add, total, more)
    if any(node.wanted[1:3]):
        raise Unsupported("with moments as outputs")
    epsilon = float(node.get("epsilon", 1e-12 if not plain else 1e-5))
    kind = "SimplifiedLayerNormalization" if plain else "LayerNormalization"
    given = [total, node[2]] if plain else [total, node[2], node.maybe(3)]
    made = HANDLERS[kind](Node(node.build, kind, node.name, given, {"axis": -1, "epsilon": epsilon}, 17, [True]))
    return [made if isinstance(made, Value) else made[0], None, None, total]


@handles(f"{DOMAIN}.EmbedLayerNormalization")
def _embed(node: Node) -> list[Value | None]:
    """Words, places and segments added and normalized; the number of words of each sample where a mask is given."""
    build, words = node.build, node[0]
    table, places, segments = node[2], node[3], node.maybe(4)
    if not table.is_constant or not places.is_constant or node.maybe(8) is not None:
        raise Unsupported("with tables or places that the data decide")
    total = build.layer(f"{node.name}_words", _table(table), words)
    if segments is not None and node.maybe(1) is not None:
        kinds = build.layer(f"{node.name}_segments", _table(segments), node[1])
        total = build.call(torch.add, total, kinds)
    total = build.call(torch.add, total, build.tensor(places.a[: words.shape[1]].clone()))
    norm = HANDLERS["LayerNormalization"]
    attributes = {"axis": -1, "epsilon": float(node.get("epsilon", 1e-12))}
    made = norm(Node(build, "LayerNormalization", node.name, [total, node[5], node.maybe(6)], attributes, 17, [True]))
    mask = node.maybe(7)
    lengths = None if mask is None else build.call(torch.sum, mask, [1], dtype=torch.int32)
    return [made if isinstance(made, Value) else made[0], lengths, total]


def _table(values: Value) -> torch.nn.Embedding:
    return torch.nn.Embedding(values.shape[0], values.shape[1], _weight=values.a.clone())


@handles(f"{DOMAIN}.FusedMatMul", f"{DOMAIN}.TransposeMatMul")
def _fused_matmul(node: Node) -> Value:
    a, b, call = node[0], node[1], node.build.call
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise Unsupported("with the batch's axes moved")
    a = call(torch.transpose, a, -1, -2) if node.get("transA", 0) else a
    b = call(torch.transpose, b, -1, -2) if node.get("transB", 0) else b
    alpha = float(node.get("alpha", 1.0))
    if b.is_constant and alpha != 1.0:
        b, alpha = node.build.tensor(b.a * alpha), 1.0
    made = HANDLERS["MatMul"](Node(node.build, "MatMul", node.name, [a, b], {}, node.version, [True]))
    assert isinstance(made, Value)
    return made if alpha == 1.0 else call(torch.mul, made, alpha)


@handles(f"{DOMAIN}.FusedConv", f"{DOMAIN}.FusedGemm")
def _fused_layer(node: Node) -> Value:
    """A layer, what is added to it, and its activation."""
    kind, params = node.op.removeprefix("Fused"), [float(v) for v in node.get("activation_params", [])]
    made = HANDLERS[kind](Node(node.build, kind, node.name, node.inputs[:3], node.attributes, node.version, [True]))
    assert isinstance(made, Value)
    beside = node.maybe(3) if kind == "Conv" else None
    made = made if beside is None else node.build.call(torch.add, made, beside)
    name = node.get("activation", "")
    if not name:
        return made
    if name not in ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Clip", "HardSigmoid", "Elu", "Softplus", "Softsign"):
        raise Unsupported(f"with activation {name}")
    keys = ("min", "max") if name == "Clip" else ("alpha", "beta")
    attributes: dict[str, object] = dict(zip(keys, params, strict=False))
    attributes |= {k: node.get(f"activation_{k}") for k in ("alpha", "beta", "gamma") if node.get(f"activation_{k}") is not None}
    answer = HANDLERS[name](Node(node.build, name, node.name, [made], attributes, 6 if name == "Clip" else node.version, [True]))
    assert isinstance(answer, Value)
    return answer


@handles(f"{DOMAIN}.Attention")
def _attention(node: Node) -> Value:
    """One product for queries, keys and values, of a sequence with itself."""
    build, x, weight, bias, count = node.build, node[0], node[1], node.maybe(2), int(node.get("num_heads"))
    if node.maybe(4) is not None or node.outputs > 1 or node.get("do_rotary", 0):
        raise Unsupported("with a past, or with rotary places")
    if not weight.is_constant or (bias is not None and not bias.is_constant):
        raise Unsupported("with weights that the data decide")
    sizes = [int(v) for v in node.get("qkv_hidden_sizes", [weight.shape[1] // 3] * 3)]
    weights = weight.a.split(sizes, 1)
    biases = [None] * 3 if bias is None else bias.a.split(sizes)
    q, k, v = (
        heads(build, dense(build, f"{node.name}_{n}", x, w, b), count) for n, w, b in zip("qkv", weights, biases, strict=True)
    )
    scale = float(node.get("scale", 0.0)) or 1 / math.sqrt(q.shape[3])
    masks = _masks(node, node.maybe(3), node.maybe(5), q.shape[2], k.shape[2])
    return joined(build, attend(build, q, k, v, scale, masks))


@handles(f"{DOMAIN}.MultiHeadAttention")
def _multi_head(node: Node) -> list[Value]:
    build, q, k, v, bias, count = node.build, node[0], node.maybe(1), node.maybe(2), node.maybe(3), int(node.get("num_heads"))
    if q.rank != 3 or k is None or v is None or node.maybe(8) is not None:
        raise Unsupported("with queries, keys and values in one tensor, or with a buffer for the past")
    if bias is not None:
        if not bias.is_constant:
            raise Unsupported("with a bias that the data decide")
        parts = bias.a.split([q.shape[2], q.shape[2], bias.shape[0] - 2 * q.shape[2]])
        given = ((x, part) for x, part in zip((q, k, v), parts, strict=True))
        q, k, v = (build.call(torch.add, x, build.tensor(part.clone())) if x.rank == 3 else x for x, part in given)
    q, k, v = (heads(build, x, count) if x.rank == 3 else x for x in (q, k, v))
    past = [node.maybe(6), node.maybe(7)]
    if past[0] is not None and past[1] is not None:
        k, v = build.call(torch.cat, [past[0], k], 2), build.call(torch.cat, [past[1], v], 2)
    scale = float(node.get("scale", 0.0)) or 1 / math.sqrt(q.shape[3])
    masks = _masks(node, node.maybe(4), node.maybe(5), q.shape[2], k.shape[2])
    return [joined(build, attend(build, q, k, v, scale, masks)), k, v]


def _masks(node: Node, mask: Value | None, bias: Value | None, queries: int, keys: int) -> list[Value]:
    build, fill = node.build, float(node.get("mask_filter_value", -10000.0))
    found = [causal(build, queries, keys)] if node.get("unidirectional", 0) else []
    if mask is not None:
        found.append(_padding_mask(build, mask, fill, keys))
    return found if bias is None else [*found, bias]


def _padding_mask(build: Builder, mask: Value, fill: float, keys: int) -> Value:
    """A mask of ones and zeros, or each sample's length, as what is added to scores."""
    if mask.rank == 1:
        if mask.a.shape[0] != mask.b.shape[0] and not mask.batched():
            raise Unsupported("with a packed mask")
        mask = build.call(torch.lt, build.tensor(torch.arange(keys)), build.call(torch.unsqueeze, mask, 1))
    if mask.rank not in (2, 3) or mask.shape[-1] != keys:
        raise Unsupported(f"with a mask of {mask.rank} axes")
    kept = build.call(Tensor.to, mask, torch.float32)
    added = build.call(torch.mul, build.call(torch.add, build.call(torch.neg, kept), 1.0), max(fill, FILL))
    added = build.call(torch.unsqueeze, added, 1)
    return build.call(torch.unsqueeze, added, 1) if mask.rank == 2 else added


@handles(f"{DOMAIN}.RotaryEmbedding")
def _rotary(node: Node) -> Value:
    """As the standard's, with the places before the caches: one for each word, or the first one's."""
    build, x, places, cos, sin = node.build, node[0], node[1], node[2], node[3]
    flat = x.rank == 3
    size = int(node.get("rotary_embedding_dim", 0))
    count = int(node.get("num_heads", 0)) or (x.shape[2] // (2 * cos.shape[1]) if flat else 0)
    x = heads(build, x, count) if flat else x
    if places.rank == 1 and places.a.numel() == 1:
        along = build.tensor(torch.arange(x.shape[2]))
        places = build.call(Tensor.expand, build.call(torch.unsqueeze, build.call(torch.add, along, places), 0), [build.batch, -1])
    made = rotated(build, x, (cos, sin), places, size, bool(node.get("interleaved", 0)))
    made = made if float(node.get("scale", 1.0)) == 1.0 else build.call(torch.mul, made, float(node.get("scale")))
    return joined(build, made) if flat else made
