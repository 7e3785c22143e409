"""What a student can learn from: scores, decoupled scores, features; one teacher, several, a file; live or from disk."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F

from commands import edgeloop_here, sentence
from edgeloop_pipeline.stages.distill import Distill, attention_distance, decoupled

ONLY = [f"--set={s}=off" for s in ("quantize", "export", "verify", "profile", "package", "report", "prune")]


def distilled(project: Path, runs: Path, *changes: str, **env: str) -> tuple[float, str]:
    done = edgeloop_here("run", project, "--runs", runs, "--json", *ONLY, *(f"--set={c}" for c in changes), **env)
    assert done.returncode == 0, done.stderr
    stage = next(s for s in json.loads(done.stdout)["stages"] if s["name"] == "distill")
    return stage["metrics"]["validation_accuracy"], done.stderr


def test_decoupled_is_the_usual_distillation_where_its_weights_say_so() -> None:
    """KL = KL(target) + (1 − p_t) KL(others): with the second weight 1 − p_t of the teacher they are one."""
    torch.manual_seed(0)
    scores, wanted = torch.randn(1, 7), torch.randn(1, 7)
    labels = torch.tensor([3])
    p = float(wanted.softmax(1)[0, 3])
    usual = F.kl_div(scores.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")
    settings = Distill(temperature=1.0, target_weight=1.0, others_weight=1 - p)
    assert float(decoupled(scores, wanted, labels, settings)) == pytest.approx(float(usual), rel=1e-4)


def test_attention_is_compared_whatever_the_channels_and_sizes() -> None:
    a = torch.rand(4, 8, 6, 6)
    assert float(attention_distance(a, a.repeat(1, 3, 1, 1))) == pytest.approx(0, abs=1e-9)
    assert float(attention_distance(a, torch.rand(4, 5, 3, 3))) > 0


@pytest.mark.long
def test_the_teachers_scores_are_kept_and_used_again(tiny: Path, tmp_path: Path) -> None:
    env = {"EDGELOOP_DATA": str(tmp_path / "cache")}
    live, _ = distilled(tiny, tmp_path / "a", **env)
    first, said = distilled(tiny, tmp_path / "b", "distill.cache_teacher=true", **env)
    assert "epoch 16/16 of its scores" in said and first == pytest.approx(live, abs=0.1)
    kept = sorted((tmp_path / "cache" / "teacher-scores").rglob("epoch-*.npy"))
    assert len(kept) == 16
    again, said = distilled(tiny, tmp_path / "b", "distill.cache_teacher=true", "distill.temperature=2", **env)
    assert "kept by an earlier run" in said and again > 0.8
    _, said = distilled(tiny, tmp_path / "c", "distill.cache_teacher=true", "cache_bytes=1000", **env)
    assert "more than cache_bytes" in said


@pytest.mark.long
def test_hints_decoupled_and_several_teachers(tiny: Path, tmp_path: Path) -> None:
    (tiny / "teachers.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Constant(nn.Module):\n    def forward(self, x):\n"
        "        return torch.zeros(len(x), 3)\n\n\ndef constant():\n    return Constant()\n\n\ndef nothing():\n    return 3\n"
    )
    measured = ("distill.precision=auto", "distill.hints={features.2: features.2}", "distill.method=decoupled")
    accuracy, _ = distilled(tiny, tmp_path / "a", *measured)
    assert accuracy > 0.8
    accuracy, _ = distilled(
        tiny,
        tmp_path / "a",
        "distill.teachers=[teachers.py:constant, teachers.py:constant]",
        "distill.teacher_share=1.0",
        "distill.student=network.py:tiny",
    )
    assert accuracy < 0.8  # they know nothing
    wrong = {
        "distill.hints={features.22: features.2}": ("'features.22' is no layer", 2),
        "distill.teachers=[teachers.py:nothing]": ("returned int", 4),
        "distill.teachers=[other.onnx]": ("no file", 2),
    }
    for change, (said, code) in wrong.items():
        assert said in sentence(edgeloop_here("run", tiny, "--runs", tmp_path / "a", *ONLY, "--set", change), code)


def test_an_onnx_file_teaches(tiny: Path, tmp_path: Path) -> None:
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["axes"], value_ints=[2]),
            helper.make_node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
            helper.make_node("Concat", ["means", "means"], ["four"], axis=1),
            helper.make_node("Constant", [], ["begin"], value_ints=[0]),
            helper.make_node("Constant", [], ["end"], value_ints=[3]),
            helper.make_node("Constant", [], ["axis"], value_ints=[1]),
            helper.make_node("Slice", ["four", "begin", "end", "axis"], ["scores"]),
        ],
        "teacher",
        [helper.make_tensor_value_info("x", 1, ["n", 2, 32])],
        [helper.make_tensor_value_info("scores", 1, ["n", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tiny / "t.onnx")
    accuracy, _ = distilled(tiny, tmp_path / "a", "distill.teachers=[t.onnx]", "distill.epochs=2")
    assert 0 <= accuracy <= 1
