"""Every kind of project that `edgeloop new` writes, unedited: from a person's data to the agent's answers about these very data."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from commands import command
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.cli.project import new
from edgeloop_pipeline.recipe import recipe
from edgeloop_pipeline.run import runner
from matrix import cases

QUICK = (
    "export.runtimes=[onnx]", "profile.seconds=0.01", "verify.layer_samples=2", "verify.canary_samples=4", "report=off",
    "target.max_drop=0.9",
)  # fmt: skip
Rows = list[dict[str, Any]]


def pictures(root: Path) -> None:
    """Two classes; one of the files is grey, and one is a copy that Jupyter left."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, low in (("dark", 0), ("light", 140)):
        (root / label / ".ipynb_checkpoints").mkdir(parents=True)
        for i in range(24):
            image = Image.fromarray(rng.integers(low, low + 110, (20 + i % 3, 24, 3)).astype(np.uint8))
            (image.convert("L") if i == 5 and label == "dark" else image).save(root / label / f"{i}.png")
        image.save(root / label / ".ipynb_checkpoints" / "23-checkpoint.png")


def sounds(root: Path) -> None:
    """Of two rates and lengths, some of two channels."""
    rng = np.random.default_rng(0)
    for label, hz in (("low", 300), ("high", 1500)):
        (root / label).mkdir(parents=True)
        for i in range(24):
            rate, channels = (16000 if i % 2 else 8000), 1 + (i % 3 == 0)
            t = np.arange(int(rate * (0.3 + 0.01 * i))) / rate
            values = 8000 * np.sin(2 * np.pi * hz * rng.uniform(0.9, 1.1) * t) + rng.normal(0, 500, len(t))
            with wave.open(str(root / label / f"{i}.wav"), "wb") as file:
                file.setnchannels(channels)
                file.setsampwidth(2)
                file.setframerate(rate)
                file.writeframes(np.repeat(values.astype("<i2")[:, None], channels, 1).tobytes())


def moving(rng: np.random.Generator, hz: float, points: int) -> np.ndarray:
    angle = 2 * np.pi * (hz * np.arange(points) + rng.uniform())
    return np.stack([np.sin(angle), 0.5 * np.cos(angle)], 1) + rng.normal(0, 0.1, (points, 2))


def series(root: Path) -> None:
    """CSV files of 60 to 100 points with a header and a time stamp."""
    rng = np.random.default_rng(0)
    for label, hz in (("slow", 0.03), ("fast", 0.11)):
        (root / label).mkdir(parents=True)
        for i in range(20):
            rows = [f"{j / 50:.2f},{a:.4f},{b:.4f}" for j, (a, b) in enumerate(moving(rng, hz, 60 + 2 * i))]
            (root / label / f"{i}.csv").write_text("\n".join(["time,ax,ay", *rows]))


def table(root: Path) -> None:
    """Five subjects, numbers as class names, a row's number, a missing value, and air pressure with little change."""
    rng = np.random.default_rng(0)
    lines = ["Unnamed: 0,subject,ax,hPa,label"]
    for subject in ("Ann", "Bo", "Cy", "Di", "Ed"):
        for label, hz in (("001", 0.03), ("1", 0.11)):
            values = moving(rng, hz, 200)
            lines += [f"{len(lines) + i - 1},{subject},{a:.4f},{1013 + b / 100:.5f},{label}" for i, (a, b) in enumerate(values)]
    lines[300] = ",".join(["299", "Bo", "NA", *lines[300].split(",")[3:]])
    root.mkdir()
    (root / "steps.csv").write_text("\n".join(lines))


def quantity(root: Path) -> None:
    """Nine machines, each with one value all the time."""
    rng = np.random.default_rng(0)
    lines = ["machine;ax;target"]
    for machine in range(9):
        level = 1 + machine / 2
        lines += [
            f"m{machine};{level * v:.4f};{level}".replace(".", ",") for v in np.sin(0.7 * np.arange(400)) + rng.normal(0, 0.05, 400)
        ]
    root.mkdir()
    (root / "machines.csv").write_text("\n".join(lines))


def anomalies(root: Path) -> None:
    pictures(root)
    (root / "dark").rename(root / "good")


KINDS: dict[str, tuple[Callable[[Path], None], str, int, Callable[[Rows], bool]]] = {
    "pictures": (pictures, "dark", 12, lambda rows: len(rows) == 24 and sum(row["label"] == "dark" for row in rows) > 18),
    "sounds": (sounds, "high", 8, lambda rows: len(rows) == 24 and sum(row["label"] == "high" for row in rows) > 18),
    "series": (series, "fast", 6, lambda rows: len(rows) >= 20 and np.mean([row["label"] == "fast" for row in rows]) > 0.8),
    "table": (table, "steps.csv", 12, lambda rows: {row["label"] for row in rows} == {"001", "1"}),
    "quantity": (quantity, "machines.csv", 20, lambda rows: rows[-1]["values"]["target"] > rows[0]["values"]["target"] + 2),
    "anomalies": (anomalies, "light", 8, lambda rows: np.mean([row["label"] == "anomaly" for row in rows]) > 0.8),
}


@pytest.mark.parametrize("kind", cases(KINDS, ("table",)))
def test_a_new_project_ships_and_answers(tmp_path: Path, kind: str) -> None:
    make, asked, epochs, is_right = KINDS[kind]
    make(tmp_path / "data")
    task = ["--task", "anomaly"] if kind == "anomalies" else []
    made = CliRunner().invoke(new, [str(tmp_path / "2024"), "--data", str(tmp_path / "data"), *task], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert str(tmp_path) not in (tmp_path / "2024" / "data.py").read_text()
    (tmp_path / "2024").rename(tmp_path / "moved")
    small = ("network_args.widths=[8, 16, 32]",) if kind == "pictures" else ()
    loaded = recipe.load(tmp_path / "moved" / "recipe.yaml", (f"train.epochs={epochs}", *small, *QUICK))
    assert loaded.head.name == "2024"
    done = runner.run(loaded, Store(tmp_path / "runs"), runner.Listener())
    bundle = done.path("package", "bundle")
    answered = command("edgeloop-agent", "run", bundle, "--source", tmp_path / "data" / asked, "--state", tmp_path / "state")
    assert answered.returncode == 0, answered.stderr
    rows = [json.loads(line) for line in answered.stdout.splitlines()]
    assert rows and not [row for row in rows if "refused" in row]
    assert is_right(rows), rows[:5]
