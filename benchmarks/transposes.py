"""Int8 TFLite files of networks with hard-swish, with and without four axes for the constants beside pictures.

The same network, ranges and weights; files take turns in one process. Answers must be equal, bit for bit. `--quick`: fewer turns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from columns import by_turns
from harness import Row, main

BLOCKS = (
    (16, 16, 2, 3),
    (16, 24, 2, 3),
    (24, 40, 2, 5),
    (40, 40, 1, 5),
    (40, 96, 2, 5),
    (96, 96, 1, 5),
)  # as MobileNetV3's
SIDES = (96, 224)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = inputs * 4
        self.expand, self.project = nn.Conv2d(inputs, wide, 1), nn.Conv2d(wide, outputs, 1)
        self.depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.hardswish(self.depthwise(nn.functional.hardswish(self.expand(x))))
        gate = nn.functional.hardsigmoid(self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()))
        y = self.project(y * gate)
        return x + y if self.same else y


def measure(quick: bool) -> Iterator[Row]:
    for side in SIDES[:1] if quick else SIDES:
        plain, shaped = files(side)
        answers = [run() for run in (plain, shaped)]
        took = by_turns([shaped, plain], 30 if quick else 300)
        same = bool((answers[0] == answers[1]).all())
        name = f"hard-swish, squeeze and excite, {side} × {side}: TFLite, constants with four axes"
        target = "≥ 1×, same answers"
        yield Row(
            name, round(took[0], 1), "µs", round(took[1], 1), round(took[1] / took[0], 2), target, took[1] >= took[0] and same
        )


def files(side: int) -> list:
    """Calls of the file without axes for its constants, and with them."""
    from ai_edge_litert.interpreter import Interpreter

    from edgeloop_exporters import convert, tflite_passes
    from edgeloop_exporters.normalization import InputNormalization
    from rounded import rounded

    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(BLOCKS[-1][1], 10)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish(), *[Block(*block) for block in BLOCKS], *head).eval()
    normalization, shape = InputNormalization("uint8", (100.0,) * 3, (40.0,) * 3), (side, side, 3)
    samples = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    graph, kept, made = rounded(net, normalization, samples), tflite_passes.constants_of_four_axes, []
    for rewrite in (lambda module: None, kept):
        tflite_passes.constants_of_four_axes = rewrite
        try:
            content = convert.written("tflite", graph, normalization, shape, True)
        finally:
            tflite_passes.constants_of_four_axes = kept
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        entry, end = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(entry["index"], samples[:1].astype(entry["dtype"]))

        def run(interpreter=interpreter, end=end) -> np.ndarray:
            interpreter.invoke()
            return interpreter.get_tensor(end["index"])

        made.append(run)
    return made


if __name__ == "__main__":
    main(measure)
