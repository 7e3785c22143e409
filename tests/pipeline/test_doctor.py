"""What the machine has, and what its meters say."""

from __future__ import annotations

import json
from pathlib import Path

from commands import command
from edgeloop_agent.energy import NO_METER, Meter
from edgeloop_pipeline.cli.doctor import Trial, advice


def test_doctor_measures_and_advises() -> None:
    done = command("edgeloop", "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["cores"] >= 1 and found["versions"]["torch"] != "not installed"
    measured = [t for t in found["trials"] if t["images_per_second"]]
    assert len(measured) >= 5 and all(t["why"] for t in found["trials"] if not t["images_per_second"])
    assert set(found["accelerators"]) == {"GPU (CUDA or ROCm)", "Apple GPU (MPS)", "Intel GPU (XPU)", "TPU"}
    assert any(line.startswith("TPU: ") for line in found["advice"])


def test_advice_names_what_is_fastest() -> None:
    trials = [Trial(f"{kind}, {name}", speed) for kind in ("convolutions", "depthwise convolutions")
              for name, speed in (("float32", 100.0), ("bf16, channels last", 250.0))]  # fmt: skip
    said = advice(trials, {"accelerators": {"GPU (CUDA or ROCm)": "none found"}})
    assert said[0].startswith("convolutions: bf16, channels last is the fastest, 2.5× plain float32")
    assert "trains on its CPU" in said[2]


def test_a_meter_counts_packages_and_wraps_around(tmp_path: Path) -> None:
    for zone, energy in (("intel-rapl:0", 9_000_000), ("intel-rapl:0:0", 5_000_000), ("intel-rapl:1", 1_000_000)):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(str(energy))
        (tmp_path / zone / "max_energy_range_uj").write_text("10000000")
    meter = Meter(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("4000000")
    assert meter.joules() == 2.0 + 3.0


def test_without_a_meter_it_says_so(tmp_path: Path) -> None:
    assert Meter(tmp_path).joules() is None and Meter(tmp_path).text() == NO_METER
