"""What a run refuses, and what it survives: bad projects, full disks, interrupts, stages that fail."""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from test_run import ORDER, run

from commands import BIN, ONNX, TINY, command, edgeloop_here, sentence

BAD_PROJECTS: dict[str, tuple[str, str, int, str]] = {
    "data missing": (
        "data.py",
        "def tones():\n    from edgeloop_contract.errors import DataError\n    raise DataError('no data; fetch it')\n",
        3,
        "no data",
    ),
    "data breaks": (
        "data.py",
        "class D:\n    def files(self):\n        return []\n    def load(self):\n        return {}['x']\ndef tones():\n    return D()\n",
        3,
        "load() failed: KeyError",
    ),
    "network does not import": ("network.py", "import nothing_like_this\n", 2, "nothing_like_this"),
    "network raises": ("network.py", "def tiny(shape, outputs):\n    raise ValueError('seven')\n", 4, "seven"),
    "not a network": ("network.py", "def tiny(shape, outputs):\n    return 3\n", 4, "torch.nn.Module"),
    "wrong size": (
        "network.py",
        "from torch import nn\ndef tiny(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(7, outputs))\n",
        4,
        "layer 1",
    ),
    "wrong outputs": (
        "network.py",
        "from torch import nn\ndef tiny(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))\n",
        4,
        "return scores of shape (1, 3)",
    ),
    "cannot be pruned": (
        "network.py",
        "from torch import nn\nclass N(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.c = nn.Conv1d(2, 8, 3)\n"
        "        self.f = nn.Linear(240, 3)\n    def forward(self, x):\n        return self.f(self.c(x).reshape(-1, 240))\n"
        "def tiny(shape, outputs):\n    return N()\n",
        4,
        "cannot be pruned at layer",
    ),
    "cannot be traced": (
        "network.py",
        "from torch import nn\nclass N(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.f = nn.Linear(64, 3)\n"
        "    def forward(self, x):\n        y = self.f(x.flatten(1))\n        return y if y.sum() > 0 else -y\n"
        "def tiny(shape, outputs):\n    return N()\n",
        4,
        "cannot be traced",
    ),
    "loss explodes": (
        "recipe.yaml",
        (TINY / "recipe.yaml").read_text().replace("learning_rate: 0.01", "learning_rate: 1.0e+30"),
        4,
        "lower learning_rate",
    ),
}


@pytest.mark.parametrize("name", BAD_PROJECTS)
def test_bad_projects(name: str, tiny: Path, tmp_path: Path) -> None:
    file, text, code, message = BAD_PROJECTS[name]
    (tiny / file).write_text(text)
    options = (
        ["--set", "prune=off", "--set", "train.epochs=1", "--set", "distill=off"]
        if name == "cannot be traced"
        else ["--set", "train.epochs=1"]
    )
    done = edgeloop_here("run", tiny, "--runs", tmp_path / "runs", *options)
    assert message in sentence(done, code)
    assert not list((tmp_path / "runs" / "cache").glob(".partial*"))


def test_unwritable_and_full_places(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in sentence(command("edgeloop", "run", tiny, "--runs", tmp_path / "file"), 7)
    full = command("edgeloop", "run", tiny, "--runs", "/dev/full")
    sentence(full, 7)


@pytest.mark.long
def test_full_disk(tmp_path: Path) -> None:
    """A disk of 400 kB: one sentence, nothing half-written, and with room the run goes on where it was."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount the small disk that this fills")
    try:
        (disk / "ballast").write_bytes(bytes(300_000))
        done = command("edgeloop", "run", TINY, "--runs", disk / "runs", ONNX)
        said = sentence(done, 7)
        assert "full" in said or "No space left" in said
        assert not list((disk / "runs" / "cache").glob(".partial*"))
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        answer = run(TINY, disk / "runs", ONNX)
        assert [s["name"] for s in answer["stages"]] == ORDER
    finally:
        subprocess.run(["umount", disk], check=True)


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    from edgeloop_pipeline.cache.store import Store

    with Store(tmp_path / "runs").lock():
        assert "another run works in this folder" in sentence(command("edgeloop", "run", TINY, "--runs", tmp_path / "runs"), 7)


@pytest.mark.long
def test_threads_do_not_spin_where_others_want_the_core(tmp_path: Path) -> None:
    """As the OpenMP runtime itself says when it is loaded; who sets it otherwise is heeded."""
    later = ("prune", "distill", "quantize", "export", "verify", "profile", "package", "report")
    words = [word for stage in later for word in ("--set", f"{stage}=off")]
    for given, told in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE")):
        done = command("edgeloop", "run", TINY, "--runs", tmp_path / told, *words, OMP_DISPLAY_ENV="TRUE", **given)
        assert done.returncode == 0, done.stderr
        assert f"OMP_WAIT_POLICY = '{told}'" in done.stderr


def test_interrupted(tmp_path: Path) -> None:
    # Tests that run in the background have SIGINT ignored, and would hand that on.
    listening = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    words = [BIN / "edgeloop", "run", TINY, "--runs", tmp_path / "runs"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "train: epoch 1/" in line)
    assert line
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "interrupted; run again to resume" in rest
    assert "Traceback" not in rest
    assert not list((tmp_path / "runs" / "cache").glob(".partial*"))


def test_a_stage_of_ones_own_that_fails(tiny: Path, tmp_path: Path) -> None:
    (tiny / "stages.py").write_text(
        "from dataclasses import dataclass\nfrom edgeloop_pipeline.stages import Base\n"
        "@dataclass(frozen=True)\nclass Odd(Base):\n    def __call__(self, inputs, out):\n        return 1 / 0\n"
    )
    text = (tiny / "recipe.yaml").read_text().replace("  train:", "  odd: {stage: stages.py:Odd}\n  train:")
    (tiny / "recipe.yaml").write_text(text)
    said = sentence(command("edgeloop", "run", tiny, "--runs", tmp_path / "runs"), 2)
    assert "stage odd: ZeroDivisionError" in said and "stages.py, line 6" in said


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "said"), [("raise KeyError('x')", "augment: KeyError: 'x'"), ("return batch[:1]", "return the same shape")]
)
def test_an_augmentation_that_fails(tiny: Path, tmp_path: Path, body: str, said: str) -> None:
    (tiny / "data.py").write_text((tiny / "data.py").read_text() + f"\n\ndef augment(batch, generator):\n    {body}\n")
    text = (tiny / "recipe.yaml").read_text().replace("preprocessing:", "augment: data.py:augment\npreprocessing:")
    (tiny / "recipe.yaml").write_text(text)
    assert said in sentence(edgeloop_here("run", tiny, "--runs", tmp_path / "runs"), 3)
