"""`edgeloop profile` names a planted bottleneck of each kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import command
from matrix import cases

NETWORK = """
import time
import torch
from torch import nn

class Planted(nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, (3, 1))
        self.scores = nn.Linear(8, outputs)
        {init}

    def forward(self, x):
        x = x.unsqueeze(-1)
        {forward}
        return self.scores(torch.relu(self.conv(x)).mean((2, 3)))

def tiny(sample_shape, outputs):
    return Planted(sample_shape[0], outputs)
"""
PASS = "pass"
PLANTED = {  # kind: (in the constructor, in forward, of the augmentation, settings)
    "data": (PASS, PASS, "    sum(i * i for i in range(1_500_000))\n    return batch", ""),
    "host": (PASS, "sum(i * i for i in range(1_500_000))", "", ""),
    "idle": (PASS, "time.sleep(0.2)", "", ""),
    "compute": ("self.big = nn.Conv2d(channels, 256, 5, padding=2); self.more = nn.Conv2d(256, channels, 5, padding=2)",
                "x = x + self.more(torch.relu(self.big(x)))", "", ""),
    "transfers": (PASS, "a = torch.empty(8_000_000)\n        for _ in range(6): a = a.clone()", "", ""),
    "optimizer": ("self.big = nn.Parameter(torch.zeros(3000, 2000))", "x = x + self.big[0, :1] * 0", "", "clip_norm: 1.0, optimizer: adafactor, "),
}  # fmt: skip


@pytest.mark.parametrize("kind", cases(PLANTED, ("data", "idle")))
def test_names_the_planted_bottleneck(tiny: Path, tmp_path: Path, kind: str) -> None:
    init, forward, augment, settings = PLANTED[kind]
    (tiny / "network.py").write_text(NETWORK.format(init=init, forward=forward))
    recipe = (tiny / "recipe.yaml").read_text().replace("train: {", f"train: {{{settings}workers: 0, ")
    if "optimizer:" in settings:
        recipe = recipe.replace("optimizer: adamw, ", "", 1)
    if augment:
        (tiny / "data.py").write_text((tiny / "data.py").read_text() + f"\n\ndef augment(batch, generator):\n{augment}\n")
        recipe = recipe.replace("preprocessing:", "augment: data.py:augment\npreprocessing:")
    (tiny / "recipe.yaml").write_text(recipe)
    # One thread, as for two processes on these cores: with more, other tests' load shows as slow kernels.
    done = command("edgeloop", "profile", tiny, "--runs", tmp_path / "runs", "--steps", 3, "--json", LOCAL_WORLD_SIZE="2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["bottleneck"] == kind, found["shares"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["advice"] and found["operators"] and found["modules"]
    assert "traceEvents" in json.loads(Path(found["trace"]).read_text())


def test_in_words(tiny: Path, tmp_path: Path) -> None:
    done = command("edgeloop", "profile", tiny, "--runs", tmp_path / "runs", "--steps", 2)
    assert "bottleneck: " in done.stdout and "try next: " in done.stdout and "ui.perfetto.dev" in done.stdout


def test_without_a_train_stage(tiny: Path, tmp_path: Path) -> None:
    done = command("edgeloop", "profile", tiny, "--runs", tmp_path / "runs", "--set", "train=off", "--set", "train.stage=x")
    assert done.returncode == 2 and "Traceback" not in done.stderr
