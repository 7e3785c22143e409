"""Heat and energy: the sensors of made boards, and what is decided about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloop_agent.config import Thermal
from edgeloop_agent.sensors import Board, Reading
from edgeloop_agent.thermal import State, decide


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_raspberry_pi(tmp_path: Path) -> None:
    put(tmp_path, **{
        "class/thermal/thermal_zone0/temp": "61234\n",
        "devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    })  # fmt: skip
    reading = Board(tmp_path).read()
    assert reading.celsius == 61.234 and reading.throttled == ("under-voltage", "throttled")
    assert reading.watts is None and reading.joules is None


def test_a_jetson(tmp_path: Path) -> None:
    put(tmp_path, **{
        "class/thermal/thermal_zone0/temp": "45000",
        "class/thermal/thermal_zone1/temp": "52500",
        "class/thermal/thermal_zone2/temp": "-256000",  # a zone without a sensor
        "class/hwmon/hwmon3/in1_label": "VDD_IN",
        "class/hwmon/hwmon3/in1_input": "5000",
        "class/hwmon/hwmon3/curr1_input": "1200",
        "class/hwmon/hwmon3/in2_label": "VDD_CPU",
        "class/hwmon/hwmon3/in2_input": "5000",
        "class/hwmon/hwmon3/curr2_input": "400",
    })  # fmt: skip
    reading = Board(tmp_path, vcgencmd="no-such-command").read()
    assert (reading.celsius, reading.throttled, reading.watts) == (52.5, None, 6.0)


def test_a_pc_and_a_machine_without_anything(tmp_path: Path) -> None:
    put(tmp_path, **{"class/powercap/intel-rapl:0/energy_uj": "1000000"})
    board = Board(tmp_path, vcgencmd="no-such-command")
    put(tmp_path, **{"class/powercap/intel-rapl:0/energy_uj": "3500000"})
    assert board.read().joules == pytest.approx(2.5)
    assert Board(tmp_path / "nothing", vcgencmd="no-such-command").read() == Reading(None, None, None, None)


@pytest.mark.parametrize(
    ("status", "scope", "share"), [("Discharging", "", 0.37), ("Charging", "", None), ("Discharging", "Device", None)]
)
def test_a_battery_counts_while_it_is_the_boards_own_and_discharges(
    status: str, scope: str, share: float | None, tmp_path: Path
) -> None:
    folder = "class/power_supply/BAT0"
    put(tmp_path, **{f"{folder}/type": "Battery", f"{folder}/capacity": "37\n", f"{folder}/status": status})
    if scope:
        put(tmp_path, **{f"{folder}/scope": scope})
    assert Board(tmp_path, vcgencmd="no-such-command").read().battery == share


def test_a_command_that_answers_with_nonsense_is_not_asked_again(tmp_path: Path) -> None:
    script = tmp_path / "vcgencmd"
    script.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho nonsense\n")
    script.chmod(0o755)
    board = Board(tmp_path, str(script))
    assert board.read().throttled is None and board.read().throttled is None
    assert (tmp_path / "asked").read_text() == "asked\n"
    script.write_text("#!/bin/sh\necho throttled=0x4\n")
    assert Board(tmp_path, str(script)).read().throttled == ("throttled",)


POLICY = Thermal(warm_celsius=70, hot_celsius=80, hysteresis_celsius=3)


@pytest.mark.parametrize(
    ("celsius", "now", "then"),
    [
        (69, "cool", "cool"), (70, "cool", "warm"), (68, "warm", "warm"), (66.9, "warm", "cool"),
        (80, "warm", "hot"), (78, "hot", "hot"), (76, "hot", "warm"), (60, "hot", "cool"), (None, "cool", "cool"),
    ],
)  # fmt: skip
def test_states_have_some_slack(celsius: float | None, now: State, then: State) -> None:
    assert decide(POLICY, Reading(celsius, None, None, None), now) == then


def test_a_firmware_that_throttles_is_believed() -> None:
    assert decide(POLICY, Reading(40, ("throttled",), None, None), "cool") == "warm"
    assert decide(POLICY, Reading(40, ("under-voltage",), None, None), "cool") == "cool"
    assert decide(Thermal(enabled=False), Reading(99, None, None, None), "cool") == "cool"
