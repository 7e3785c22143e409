"""Requests to a model of two inputs, right and spoiled by chance: names, shapes, types, sizes, doubles, binary and JSON."""

from __future__ import annotations

import copy
import random
from typing import Any

import msgspec
import numpy as np

from edgeloop_contract.inference import DATATYPE_NAMES, DATATYPES

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 3, 1 << 70, 1.5, 1e400, "", "x", "\u0000", [], {}, [[]], [1, [2]], [[1, 2], [3]], [None], ["1"], {"a": 1},
    [0], [-1, 2], [1 << 62, 1 << 62], [0, 1 << 40], [1] * 9, [1, 2, 1], [2], [65, 2],
)  # fmt: skip


def body_of(rng: random.Random) -> tuple[bytes, int | None, dict[str, np.ndarray] | None]:
    """A body, the length of its JSON (None: all of it), and the inputs by name where nothing was spoiled."""
    rows = rng.choice((1, 1, 2, 5))
    right = {
        name: np.array([[rng.uniform(-9, 9) for _ in range(2)] for _ in range(rows)], np.float32) for name in ("motion", "sound")
    }
    tensors, tail = [], b""
    in_binary = rng.random() < 0.5
    for name, values in rng.sample(sorted(right.items()), 2):
        tensor: dict[str, Any] = {"name": name, "shape": list(values.shape), "datatype": DATATYPE_NAMES[values.dtype]}
        if in_binary:
            tensor["parameters"] = {"binary_data_size": values.nbytes}
            tail += values.tobytes()
        else:
            tensor["data"] = values.ravel().tolist() if rng.random() < 0.5 else values.tolist()
        tensors.append(tensor)
    request: dict[str, Any] = {"inputs": tensors}
    if rng.random() < 0.3:
        request |= {"id": "7", "outputs": [{"name": "probabilities", "parameters": {"binary_data": rng.random() < 0.5}}]}
    spoiled = rng.random() < 0.9
    for _ in range(rng.choice((1, 1, 2, 3)) if spoiled else 0):
        _spoil(rng, request)
    text = msgspec.json.encode(request)
    length: int | None = len(text) if in_binary else None
    if spoiled and rng.random() < 0.3:
        tail = rng.choice((tail[:-1], tail + b"x", b"", tail * 2, rng.randbytes(len(tail))))
    if spoiled and rng.random() < 0.2:
        length = rng.choice((None, 0, len(text) - 1, len(text) + 1, len(text) + len(tail), 1 << 60))
    body = text + tail
    if spoiled and rng.random() < 0.2:
        at = rng.randrange(len(body))
        body = body[:at] + rng.choice((b"", b"[" * 2000, rng.randbytes(3), b"\xff")) + body[at + 1 :]
    return body, length, None if spoiled else right


def _spoil(rng: random.Random, request: dict[str, Any]) -> None:
    """One thing wrong, or strange."""
    tensors = [t for t in request.get("inputs") or [] if isinstance(t, dict)] if isinstance(request.get("inputs"), list) else []
    if not tensors or rng.random() < 0.15:
        request[rng.choice(("inputs", "outputs", "id", "parameters", "x"))] = copy.deepcopy(rng.choice(JUNK))
        return
    tensor, kind = rng.choice(tensors), rng.choice(("field", "datatype", "double", "drop", "add", "value", "huge", "output"))
    if kind == "field":
        tensor[rng.choice(("name", "shape", "datatype", "data", "parameters"))] = copy.deepcopy(rng.choice(JUNK))
    elif kind == "datatype":
        tensor["datatype"] = rng.choice((*DATATYPES, "BYTES", "fp32"))
    elif kind == "double":
        request["inputs"].append(dict(tensor))
    elif kind == "drop" and tensor:
        tensor.pop(rng.choice(sorted(tensor)))
    elif kind == "add":
        request["inputs"].append(
            {"name": rng.choice(("x", "", "scores", "sums")), "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        )
    elif kind == "value" and isinstance(tensor.get("data"), list) and tensor["data"]:
        tensor["data"][rng.randrange(len(tensor["data"]))] = copy.deepcopy(rng.choice(JUNK))
    elif kind == "huge":
        tensor["parameters"] = {"binary_data_size": rng.choice((-1, 1 << 62, 8.0, True, "8", None, 0))}
    else:
        request["outputs"] = [
            {"name": rng.choice(("sums", "probabilities", "x", "")), "parameters": rng.choice(({}, None, {"binary_data": 1}))}
        ]
