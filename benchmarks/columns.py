"""Int8 ONNX files with and without neighbouring columns as channels (ADR 46): one small network for each kind of input, both ways.

The same network, ranges and weights; files take turns in one process. Answers must be equal, bit for bit. `--quick`: fewer turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from harness import Row, main

NORMALIZATION_MEAN, NORMALIZATION_STD = 100.0, 40.0
# Name → (height, width, channels) and the first layer's outputs, kernel and stride.
INPUTS = {
    "detector's camera": ((240, 320, 3), 16, 3, 2),
    "classifier's camera": ((224, 224, 3), 32, 3, 2),
    "classifier's camera, 7 × 7": ((224, 224, 3), 64, 7, 2),
    "camera, stride 1": ((96, 96, 3), 16, 3, 1),
    "gray camera": ((96, 96, 1), 16, 3, 2),
    "gray, 28 × 28": ((28, 28, 1), 16, 3, 1),
}


def measure(quick: bool) -> Iterator[Row]:
    for name, (shape, outputs, kernel, stride) in INPUTS.items():
        plain, columns = files(shape, outputs, kernel, stride)
        x = np.random.default_rng(1).integers(0, 256, (1, *shape), dtype=np.uint8)
        answers = [opened.run(None, {"input": x})[0] for opened in (plain, columns)]
        took = by_turns([lambda o=o, x=x: o.run(None, {"input": x}) for o in (columns, plain)], 30 if quick else 300)
        same = bool((answers[0] == answers[1]).all())
        ratio = took[1] / took[0]
        yield Row(
            f"{name} {shape}: network",
            round(took[0], 1),
            "µs",
            round(took[1], 1),
            round(ratio, 2),
            "≥ 1×, same answers",
            ratio >= 1 and same,
        )


def files(shape: tuple[int, int, int], outputs: int, kernel: int, stride: int) -> list[Any]:
    """Sessions of the file without columns as channels, and with them."""
    from edgeloop_agent.runtimes.onnx import session_of
    from edgeloop_exporters import convert, onnx_passes
    from edgeloop_exporters.normalization import InputNormalization
    from rounded import rounded

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(shape[2], outputs, kernel, stride, kernel // 2), nn.ReLU(), nn.Conv2d(outputs, 2 * outputs, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(2 * outputs, 4 * outputs, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * outputs, 10),
    ).eval()  # fmt: skip
    normalization = InputNormalization("uint8", (NORMALIZATION_MEAN,) * shape[2], (NORMALIZATION_STD,) * shape[2])
    samples = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    graph = rounded(net, normalization, samples)
    kept = onnx_passes.columns_as_channels
    made = []
    for rewrite in (lambda model: None, kept):
        onnx_passes.columns_as_channels = rewrite
        try:
            made.append(session_of(convert.written("onnx", graph, normalization, shape, True)))
        finally:
            onnx_passes.columns_as_channels = kept
    return made


def by_turns(calls: list[Callable[[], Any]], turns: int) -> list[float]:
    """Median µs of each."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 5):
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            if turn >= 5:
                times.append((time.perf_counter() - start) * 1e6)
    return [float(np.median(times)) for times in taken]


if __name__ == "__main__":
    main(measure)
