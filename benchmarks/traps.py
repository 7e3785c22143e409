"""Blocks that lose their accuracy in int8 elsewhere: a small network of each, trained on scikit-learn's digits, compressed.

Channels begin with widths that differ by a factor of sixteen, and attention with outliers, so that rounding meets what it is
known to fail at. Peers: ONNX Runtime's `quantize_static`, per tensor and per channel, on the same file and samples. Accuracy on 539
digits that calibrated nothing. With --quick three of the blocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import Row, each, edgeloop, main
from imports_peers import run, session, static

SIDE, EPOCHS, TESTED = 16, 12, 539
KEPT = 0.99
QUICK = ("squeeze-excite, hard sigmoid", "depthwise, hard-swish", "attention, outliers")


def blocks() -> dict[str, Any]:
    """Name → a block of 32 channels that keeps the size."""
    import torch
    from torch import Tensor, nn

    def conv(a: int, b: int, k: int = 1, groups: int = 1) -> nn.Sequential:
        norm = nn.BatchNorm2d(b)
        with torch.no_grad():
            norm.weight[::4] *= 4.0
            norm.weight[1::4] *= 0.25
        return nn.Sequential(nn.Conv2d(a, b, k, 1, k // 2, groups=groups, bias=False), norm)

    class Excited(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.down, self.up = conv(32, 32, 3), nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            gate = self.up(self.down(y.mean((2, 3), keepdim=True)).relu())
            return x + y * nn.functional.hardsigmoid(gate)

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = conv(16, 16), conv(16, 16, 3, 16), conv(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            kept, y = x.chunk(2, 1)
            both = torch.cat([kept, self.last(self.second(self.first(y).relu())).relu()], 1)
            return both.reshape(-1, 2, 16, *x.shape[2:]).transpose(1, 2).reshape(-1, 32, *x.shape[2:])

    class Inverted(nn.Module):
        def __init__(self, bend: nn.Module) -> None:
            super().__init__()
            self.body = nn.Sequential(conv(32, 96), bend, conv(96, 96, 3, 96), bend, conv(96, 32))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)  # type: ignore[no-any-return]

    class Next(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.norm = nn.Conv2d(32, 32, 7, 1, 3, groups=32), nn.LayerNorm(32)
            self.wide, self.back = nn.Linear(32, 128), nn.Linear(128, 32)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.deep(x).permute(0, 2, 3, 1))
            return x + self.back(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(32), nn.LayerNorm(32)])
            self.asked, self.mixed = nn.Linear(32, 96), nn.Linear(32, 32)
            self.wide, self.back = nn.Linear(32, 128), nn.Linear(128, 32)
            self.places = nn.Parameter(torch.randn(1, (SIDE // 2) ** 2, 32) * 0.2)
            with torch.no_grad():
                self.norms[0].weight[3] = self.norms[1].weight[3] = 20.0  # type: ignore[index]

        def forward(self, x: Tensor) -> Tensor:
            t = x.flatten(2).transpose(1, 2) + self.places
            q, k, v = self.asked(self.norms[0](t)).reshape(-1, t.shape[1], 3, 4, 8).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
            t = t + self.mixed((weights @ v).transpose(1, 2).reshape(-1, t.shape[1], 32))
            t = t + self.back(nn.functional.gelu(self.wide(self.norms[1](t))))
            return t.transpose(1, 2).reshape(x.shape)

    def inverted(bend: type[nn.Module]) -> Any:
        return lambda: Inverted(bend())

    return {
        "squeeze-excite, hard sigmoid": Excited, "channel shuffle": Shuffled, "depthwise, hard-swish": inverted(nn.Hardswish),
        "SiLU": inverted(nn.SiLU), "GELU": inverted(nn.GELU), "ConvNeXt": Next, "attention, outliers": Attending,
    }  # fmt: skip


def trained(block: Any, samples: np.ndarray, labels: np.ndarray, out: Path) -> None:
    """A stem, two blocks, a pool and a classifier, as an ONNX file that takes (N, 1, 16, 16) from 0 to 1."""
    import torch
    from torch import nn

    from edgeloop_exporters.quiet import quiet

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), block(), block(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    x, y = torch.from_numpy(samples), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    steps = EPOCHS * (len(x) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x))[: len(x) // 32 * 32].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    with quiet():
        torch.onnx.export(
            net.eval(), (x[:2],), str(out), dynamo=True, external_data=False, verbose=False, input_names=["image"],
            output_names=["scores"], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip


def measure(quick: bool) -> Iterator[Row]:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    counts = np.kron(digits.images, np.ones((2, 2))).astype(np.float32) * (255 / 16)
    order = np.random.default_rng(0).permutation(len(counts))
    held, fitted = order[:TESTED], order[TESTED:]
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for number in fitted:
            folder = place / "digits" / str(digits.target[number])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(counts[number].round().astype(np.uint8)).save(folder / f"{number}.png")
        x = (counts.round() / 255)[:, None].astype(np.float32)

        def one(name: str, block: Any) -> Any:
            def part(_: bool) -> Iterator[Row]:
                model = place / f"{name.split(',')[0].replace(' ', '-')}.onnx"
                trained(block, x[fitted], digits.target[fitted].astype(np.int64), model)
                yield from compared(name, model, place, x, digits.target, held, fitted)

            part.__name__ = name
            return part

        made = blocks()
        yield from each(quick, *(one(name, made[name]) for name in (QUICK if quick else made)))


def compared(name: str, model: Path, place: Path, x: Any, labels: Any, held: Any, fitted: Any) -> Iterator[Row]:
    """Accuracy of each int8 file, as a share of the float file's."""
    import edgeloop as library

    out = place / f"{model.stem}-small"
    said = ("--normalize", "unit", "--labels", ",".join(map(str, range(10))), "--task", "classification")
    edgeloop("compress", model, "--calibrate", place / "digits", "--out", out, "--runs", place / "runs", *said)
    plain = accuracy(lambda row: run(session(model), row[None]), x[held], labels[held])
    peers = {}
    for label, channels in (("per tensor", False), ("per channel", True)):
        path = static(model, place / f"{model.stem}-{label}.onnx", x[fitted][:256], channels)
        if path is not None:
            opened = session(path)
            peers[label] = accuracy(lambda row, opened=opened: run(opened, row[None]), x[held], labels[held])
    best = max(peers.values(), default=float("nan"))
    shown = ", ".join(f"{label} {value / plain:.3f}" for label, value in peers.items()) or "no file of it runs"
    bundle = next((place / "runs" / out.name).glob("*.edgeloop"))
    for variant in ("onnx-int8", "tflite-int8"):
        opened = library.open(bundle, variant=variant)
        own = accuracy(lambda row, opened=opened: scores_of(opened, row), x[held], labels[held])
        target = f"≥ {KEPT} of float's {plain:.3f}; quantize_static {shown}"
        yield Row(f"{name}: kept by {variant}", round(own / plain, 4), "", round(best / plain, 4), round(own / best, 3), target,
                  own >= KEPT * plain)  # fmt: skip


def scores_of(opened: Any, row: Any) -> Any:
    """Probabilities in the order of the labels, of one sample (1, 16, 16) from 0 to 1, which goes in as a picture."""
    answer = opened((row[0] * 255).round().astype(np.uint8)[..., None])
    return np.array([[answer.probabilities[str(label)] for label in range(10)]])


def accuracy(answer: Any, samples: Any, labels: Any) -> float:
    return float(np.mean([int(np.argmax(answer(row))) == label for row, label in zip(samples, labels, strict=True)]))


if __name__ == "__main__":
    main(measure)
