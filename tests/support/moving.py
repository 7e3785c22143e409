"""A detector of coloured squares that needs no training, and frames in which they move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from bundles import onnx_file
from commands import edgeloop_here

F = TensorProto.FLOAT
HEIGHT, WIDTH, SIDE, STRIDE = 96, 160, 16, 4
COLOURS = {"red": (220, 50, 30), "blue": (30, 60, 220)}
LAYOUT = "{layout: heatmap, stride: 4, scores: heat, sizes: sizes, offsets: '', activation: none, score_threshold: 0.6}"


def detector(folder: Path) -> Path:
    """A bundle: how much redder or bluer than the other a square of SIDE pixels is, every STRIDE pixels."""
    kernel = np.zeros((2, 3, SIDE, SIDE), np.float32)
    kernel[0, 0] = kernel[1, 2] = 1.3 / 255 / SIDE**2
    kernel[0, 2] = kernel[1, 0] = -1.3 / 255 / SIDE**2
    cells = (HEIGHT // STRIDE, WIDTH // STRIDE)
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["c"], strides=[STRIDE, STRIDE], pads=[6, 6, 6, 6]),
        helper.make_node("Clip", ["c", "zero", "one"], ["heat"]),
        helper.make_node("Mul", ["c", "zero"], ["z"]), helper.make_node("Add", ["z", "four"], ["sizes"]),
    ]  # fmt: skip
    model = onnx_file(
        nodes, [("images", F, [1, 3, HEIGHT, WIDTH])], [("heat", F, [1, 2, *cells]), ("sizes", F, [1, 2, *cells])],
        kernel=kernel, zero=np.array(0, np.float32), one=np.array(1, np.float32), four=np.array(SIDE / STRIDE, np.float32),
    )  # fmt: skip
    (folder / "squares.onnx").write_bytes(model)
    done = edgeloop_here(
        "pack", folder / "squares.onnx", "--out", folder / "squares.edgeloop", "--name", "squares", "--labels", "red,blue",
        "--preprocess", f"[{{step: colour}}, {{step: letterbox, height: {HEIGHT}, width: {WIDTH}}}]", "--boxes", LAYOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "squares.edgeloop"


def frame(**middles: tuple[float, float] | None) -> np.ndarray:
    """One picture (HEIGHT, WIDTH, 3) with a square of each colour around its middle, x and y in pixels."""
    picture = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    for colour, middle in middles.items():
        if middle is not None:
            x, y = (round(value) - SIDE // 2 for value in middle)
            picture[max(y, 0) : y + SIDE, max(x, 0) : x + SIDE] = COLOURS[colour]
    return picture


def passing(frames: int = 31, hidden: tuple[int, ...] = ()) -> list[np.ndarray]:
    """A red square goes from left to right, a blue one back, past each other; the red one is missing in frames `hidden`."""
    return [frame(red=None if i in hidden else (20 + 4 * i, 40), blue=(140 - 4 * i, 46)) for i in range(frames)]
