"""Budgets: what is decided, and what comes out of a run whose ceilings can and cannot be met."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import command, sentence
from edgeloop_exporters.arena import peak_bytes
from edgeloop_exporters.graph import trace
from edgeloop_pipeline.budgeting import Attempt, Limits, best_of, narrow, next_aim, used, verdict
from hard_networks import Residual

LIMITS = Limits(latency_us=100, bytes=1000)


def attempt(latency: float, size: int, accuracy: float = 0.9, aim: float = 1.0) -> Attempt:
    return Attempt(widths={}, accuracy=accuracy, latency_us=latency, bytes=size, ram_bytes=0, parameters=1, aim=aim)


def test_the_best_fits_and_is_the_most_accurate_of_those_or_misses_by_least() -> None:
    fits, better, misses = attempt(90, 900, 0.8), attempt(95, 500, 0.85), attempt(101, 900, 0.99)
    assert best_of([fits, misses, better], LIMITS) is better
    assert best_of([attempt(200, 900), misses], LIMITS) is misses
    assert verdict(better, LIMITS) == []
    said = verdict(attempt(120, 1500, 0.7), Limits(latency_us=100, bytes=1000, accuracy=0.8))
    assert "20% above 100" in said[0] and "50% above 1,000" in said[1] and "70.00%, below 80.00%" in said[2]


@given(st.floats(0.3, 3.0), st.floats(0.2, 3.0))
def test_attempts_close_in_on_the_budget(slope: float, share: float) -> None:
    """Whatever a whole network costs against its estimate, a handful of attempts comes to between 90 and 100 % of the budget."""
    limits, attempts = Limits(latency_us=100.0), []
    for _ in range(12):
        aim = next_aim(attempts, limits)
        if aim is None:
            break
        attempts.append(attempt(100 * slope * aim**share, 0, accuracy=aim / 1e6, aim=aim))
    best = best_of(attempts, limits)
    assert 0.85 < used(best, limits) <= 1 and len(attempts) <= 12


def test_layers_that_save_most_for_the_least_harm_are_narrowed_first() -> None:
    harm = {("a", 0.5): 1.0, ("a", 0.25): 3.0, ("b", 0.5): 0.1, ("b", 0.25): 5.0}
    weights = {"a": 100.0, "b": 40.0}

    def cost(widths: dict[str, float]) -> float:
        return sum(weights[name] * share for name, share in widths.items())

    assert narrow(["a", "b"], (1.0, 0.5, 0.25), harm, cost, 125) == {"a": 1.0, "b": 0.5}
    assert narrow(["a", "b"], (1.0, 0.5, 0.25), harm, cost, 80) == {"a": 0.5, "b": 0.5}
    assert narrow(["a", "b"], (1.0, 0.5, 0.25), harm, cost, 1) == {"a": 0.25, "b": 0.25}  # as far as it goes


def test_the_arena_holds_what_lives_at_once() -> None:
    module = trace(Residual(), torch.zeros(2, 3, 32, 32))
    # At the sum: its two inputs and its output, 16 channels of 16×16 each.
    assert peak_bytes(module) == 3 * 16 * 16 * 16


def budgeted(project: Path, runs: Path, ceiling: int) -> dict:
    text = (project / "recipe.yaml").read_text()
    stage = "  budget: {attempts: 2, epochs: 2, batch: 32, learning_rate: 0.02, round_to: 2, seconds: 0.02}\n"
    text = text.replace("  prune: {keep: 0.5, round_to: 4}\n", stage).replace("max_int8_bytes: 20000", f"max_int8_bytes: {ceiling}")
    (project / "recipe.yaml").write_text(text)
    off = [f"--set={s}=off" for s in ("distill", "verify", "profile", "package", "report")]
    done = command("edgeloop", "run", project, "--runs", runs, "--json", *off)
    assert done.returncode == 0, done.stderr
    return {s["name"]: s["metrics"] for s in json.loads(done.stdout)["stages"]}


@pytest.mark.parametrize(("ceiling", "met"), [(6500, True), (2000, False)])
def test_a_budget_is_met_or_how_near_it_came_is_said(tiny: Path, tmp_path: Path, ceiling: int, met: bool) -> None:
    found = budgeted(tiny, tmp_path / "runs", ceiling)
    budget = found["budget"]
    kept = budget["attempts"][budget["kept"]]
    assert (max(found["export"]["bytes"][n] for n in ("onnx-int8", "tflite-int8")) <= ceiling) == met
    assert bool(budget["missed"]) != met and (budget["used"]["bytes"] <= 1) == met
    assert kept["bytes"] == max(found["export"]["bytes"][n] for n in ("onnx-int8", "tflite-int8"))
    assert budget["whole"]["bytes"] > kept["bytes"] and set(kept["widths"]) and budget["layers_measured"] > 2


def test_a_budget_without_a_ceiling(tiny: Path, tmp_path: Path) -> None:
    text = (tiny / "recipe.yaml").read_text().replace("  prune: {keep: 0.5, round_to: 4}\n", "  budget: {}\n")
    (tiny / "recipe.yaml").write_text(text.replace(", max_int8_bytes: 20000", ""))
    assert "no ceiling" in sentence(command("edgeloop", "run", tiny, "--runs", tmp_path / "runs"), 2)
