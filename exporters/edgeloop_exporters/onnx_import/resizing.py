"""Resize and Upsample, in the modes that are tested against ONNX's own answers."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgeloop_exporters.onnx_import.table import Node, handles
from edgeloop_exporters.onnx_import.values import Unsupported, Value


@handles("Resize", "Upsample")
def _resize(node: Node) -> Value:
    x = node[0]
    mode = node.get("mode", "nearest")
    legacy = node.op == "Upsample" or node.version < 11
    if x.rank not in (3, 4) or node.get("axes") is not None or node.get("antialias", 0):
        raise Unsupported("of other axes than the places, or with antialias")
    goal = _goal(node, x, legacy)
    if goal == list(x.shape[2:]):
        return x
    how = "asymmetric" if legacy else node.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if legacy else node.get("nearest_mode", "round_prefer_floor")
    if mode == "nearest":
        return _nearest(node, x, goal, how, rounding)
    if mode != "linear" or x.rank != 4:
        raise Unsupported(f"with mode {mode}")
    one = 1 in goal and how == "pytorch_half_pixel"
    if how == "align_corners":
        _exact_scales(node, x, goal, legacy)
        return node.build.call(F.interpolate, x, goal, None, "bilinear", True)
    if how in ("half_pixel", "pytorch_half_pixel") and not one:
        _exact_scales(node, x, goal, legacy)
        return node.build.call(F.interpolate, x, goal, None, "bilinear", False)
    raise Unsupported(f"with coordinates {how}")


def _goal(node: Node, x: Value, legacy: bool) -> list[int]:
    places = x.rank - 2
    sizes = None if legacy else node.maybe(3)
    if sizes is not None and sizes.a.numel():
        found = node.build.sizes(sizes)[-places:]
        if not all(isinstance(size, int) for size in found) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Unsupported("to sizes that the batch decides, or with the aspect kept")
        return found
    scales = _scales(node, legacy)
    if scales[:2] != [1.0, 1.0]:
        raise Unsupported("of batch or channels")
    return [int(n * s) for n, s in zip(x.shape[2:], scales[2:], strict=True)]


def _scales(node: Node, legacy: bool) -> list[float]:
    value = node.maybe(1 if legacy else 2)
    if value is None:
        return [float(s) for s in node.get("scales", [])]
    if not value.is_constant:
        raise Unsupported("by scales that the data decide")
    return [float(s) for s in value.a.tolist()]


def _exact_scales(node: Node, x: Value, goal: list[int], legacy: bool) -> None:
    """A scale that is not the quotient of the sizes moves every place. Raises Unsupported."""
    sizes = None if legacy else node.maybe(3)
    if sizes is not None and sizes.a.numel():
        return
    for size, to, scale in zip(x.shape[2:], goal, _scales(node, legacy)[2:], strict=True):
        if abs(size * scale - to) > 1e-3:
            raise Unsupported(f"by {scale:g}, which makes {size * scale:g} of {size}")


def _nearest(node: Node, x: Value, goal: list[int], how: str, rounding: str) -> Value:
    """By whole factors as an upsampling; else as a choice of rows and columns, computed as ONNX says."""
    whole = all(to % size == 0 for size, to in zip(x.shape[2:], goal, strict=True))
    middle = how in ("half_pixel", "pytorch_half_pixel") and rounding in ("round_prefer_floor", "round_prefer_ceil")
    if whole and ((how, rounding) == ("asymmetric", "floor") or middle):
        return node.build.call(F.interpolate, x, goal, None, "nearest")
    for axis, (size, to) in enumerate(zip(x.shape[2:], goal, strict=True), 2):
        scale = to / size
        if not node.maybe(3) and node.op == "Resize":
            scale = _scales(node, node.version < 11)[axis]
        places = torch.arange(to, dtype=torch.float64)
        if how == "asymmetric":
            source = places / scale
        elif how == "align_corners":
            source = places * (size - 1) / (to - 1) if to > 1 else places * 0
        elif how in ("half_pixel", "pytorch_half_pixel"):
            source = (places + 0.5) / scale - 0.5 if to > 1 or how == "half_pixel" else places * 0
        else:
            raise Unsupported(f"with coordinates {how}")
        chosen = {
            "floor": torch.floor, "ceil": torch.ceil, "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
            "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
        }[rounding](source).clamp(0, size - 1).long()  # fmt: skip
        if chosen.tolist() != list(range(size)):
            x = node.build.call(torch.index_select, x, axis, node.build.tensor(chosen))
    return x
