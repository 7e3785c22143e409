"""What it costs: arithmetic that can be checked by hand, and the command on a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import TINY, command, sentence
from edgeloop_pipeline.recipe.settings import Prices
from edgeloop_pipeline.report.roi import Measured, answer, lines, payback, saving

MEASURED = Measured(1000.0, 36_000.0, None, 1000, "a machine")
PRICES = Prices(
    devices=10, inferences_per_day=100_000, device_cost=100, device_years=5, device_watts=3.6, upkeep_per_device_month=0,
    electricity_per_kwh=0.5, project_cost=1000, project_cost_per_month=0, cloud_per_hour=0.1, cloud_utilisation=0.5, traffic_per_gb=1,
)  # fmt: skip


def test_a_million_by_hand() -> None:
    device, cloud, split = lines(MEASURED, PRICES)
    assert device.energy == pytest.approx(0.001 * 3.6 * 1e6 / 3.6e6 * 0.5)
    assert cloud.compute == pytest.approx(1e6 * 0.036 / 3600 * 0.1 / 0.5) and cloud.traffic == pytest.approx(1.0)
    assert split.total == pytest.approx(device.total + 0.15 * cloud.total)
    month = 100_000 * 365.25 / 12 / 1e6
    assert saving(MEASURED, PRICES, 10) == pytest.approx((3.0 - 0.0005) * month * 10)
    assert payback(MEASURED, PRICES, 10) == pytest.approx(2000 / saving(MEASURED, PRICES, 10))


def test_where_an_assumption_flips_the_answer_it_does() -> None:
    import msgspec

    found = answer(MEASURED, PRICES)
    first = found.flips[0]
    assert first.factor is not None
    verdicts = set()
    for nudge in (0.98, 1.02):
        moved = msgspec.structs.replace(PRICES, **{first.name: first.value * first.factor * nudge})
        months = payback(MEASURED, moved, moved.devices)
        verdicts.add(months is not None and months <= moved.device_years * 12)
    assert verdicts == {True, False}


def test_never_is_said() -> None:
    poor = Prices(upkeep_per_device_month=1000)
    assert answer(MEASURED, poor).payback_months is None


def test_the_command(tiny_run: dict[str, Any], runs: Path, tmp_path: Path) -> None:
    done = command("edgeloop", "roi", TINY, "--runs", runs, "--json", "--set", "roi.electricity_per_kwh=0.4")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["assumed"]["electricity_per_kwh"] == 0.4
    page = Path(found["page"]).read_text()
    assert "Which assumption would reverse the answer" in page and "electricity_per_kwh" in page and "no meter here" in page
    plain = command("edgeloop", "roi", TINY, "--runs", runs)
    assert "must show" in plain.stdout
    done = command("edgeloop", "run", TINY, "--runs", runs, "--set", "roi.devices=7", "--json")
    assert done.returncode == 0, done.stderr
    report = Path(json.loads(done.stdout)["report"]).read_text()
    assert "Return on investment" in report and "<td>devices</td><td>7.0</td>" in report
    assert "Return on investment" not in Path(tiny_run["report"]).read_text(), "no prices in the recipe, no section"
    assert "run it first" in sentence(command("edgeloop", "roi", TINY, "--runs", tmp_path / "none"), 2)
    assert "roi.devices" in sentence(command("edgeloop", "roi", TINY, "--runs", runs, "--set", "roi.devices=-1"), 2)
