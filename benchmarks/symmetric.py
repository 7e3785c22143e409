"""What int8 around zero costs (the file for TensorRT): accuracy, bytes and CPU latency against the usual int8 file of a network.

Both are calibrated and repaired for themselves, without training and with no layer in float. No GPU is used: on the CPU the file's
numbers are the same, its speed is not. benchmarks/gpu.py measures it where TensorRT is. With --quick only exercise_watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Row, each, edgeloop, main

RUNS = Path("runs")
OURS, USUAL, PLAIN = "onnx-int8-symmetric", "onnx-int8", "onnx-float32"
SMALL = ("network_args={widths: [8, 16, 32], blocks: 1}", "train.epochs=1", "distill=off")
SUBJECTS = {
    "exercise_watch": ("prune=off", "distill=off"),
    "spoken_digits": ("prune=off", "distill=off"),
    "fashion": SMALL,  # residual blocks; one epoch, which is enough for what is compared
}
PLAINLY = (
    "quantize.symmetric=true", "quantize.qat=never", "quantize.max_float_layers=0", "quantize.float_streams=never", "target={}",
    "export.runtimes=[onnx]", "report=off",
)  # fmt: skip
MAX_LOST_POINTS = 0.3


def measure(quick: bool) -> Iterator[Row]:
    yield from each(quick, subjects)


def subjects(quick: bool) -> Iterator[Row]:
    for name in ["exercise_watch"] if quick else SUBJECTS:
        yield from against_the_usual(name)


def against_the_usual(name: str) -> Iterator[Row]:
    changes = [word for change in (*SUBJECTS[name], *PLAINLY) for word in ("--set", change)]
    run: dict[str, Any] = edgeloop("run", name, "--runs", RUNS, *changes)
    files = run["stages"][[s["name"] for s in run["stages"]].index("verify")]["metrics"]["variants"]
    costs = run["stages"][[s["name"] for s in run["stages"]].index("profile")]["metrics"]["variants"]
    shares = {variant: 100 * files[variant]["accuracy"]["value"] for variant in (OURS, USUAL, PLAIN)}
    lost = round(shares[USUAL] - shares[OURS], 2)
    low, high = (round(100 * files[OURS]["lost"][end], 2) for end in ("low", "high"))
    yield Row(f"{name}: float accuracy", round(shares[PLAIN], 2), "%")
    yield Row(
        f"{name}: symmetric int8 accuracy", round(shares[OURS], 2), "%", round(shares[USUAL], 2),
        round(shares[OURS] / shares[USUAL], 3),
        f"≤ {MAX_LOST_POINTS} points below the usual int8 file; {lost} lost ({low} to {high})",
        lost <= MAX_LOST_POINTS,
    )  # fmt: skip
    pair = next(p for p in run["parity"]["pairs"] if p["b"] == OURS)
    yield Row(f"{name}: runtime and torch apart", pair["max_lsb"], "LSB", target=f"{pair['exact_share']:.2%} equal")
    size = {variant: files[variant]["bytes"] for variant in (OURS, USUAL)}
    yield Row(f"{name}: file", size[OURS], "bytes", size[USUAL], round(size[USUAL] / size[OURS], 2))
    took = {variant: costs[variant]["latency_us_p50"] for variant in (OURS, USUAL, PLAIN)}
    beside = f"float file: {took[PLAIN]:.0f} µs"
    yield Row(f"{name}: p50 on the CPU", took[OURS], "µs", took[USUAL], round(took[USUAL] / took[OURS], 2), beside)


if __name__ == "__main__":
    main(measure)
