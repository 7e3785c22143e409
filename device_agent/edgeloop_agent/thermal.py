"""The thermal state, decided from a reading, without I/O."""

from __future__ import annotations

from typing import Literal

from edgeloop_agent.config import Thermal
from edgeloop_agent.sensors import Reading

State = Literal["cool", "warm", "hot"]
RANK: dict[State, int] = {"cool": 0, "warm": 1, "hot": 2}
FIRMWARE_SAYS_HOT = {"throttled", "soft temperature limit"}


def decide(policy: Thermal, reading: Reading, now: State) -> State:
    """The next state. A board that cannot measure stays cool; one whose firmware throttles is warm whatever it measures."""
    if not policy.enabled:
        return "cool"
    state: State = "cool"
    if reading.celsius is not None:
        # A state is left only `hysteresis_celsius` below its threshold.
        hot = policy.hot_celsius - (policy.hysteresis_celsius if now == "hot" else 0)
        warm = policy.warm_celsius - (policy.hysteresis_celsius if now != "cool" else 0)
        state = "hot" if reading.celsius >= hot else "warm" if reading.celsius >= warm else "cool"
    if state == "cool" and FIRMWARE_SAYS_HOT & set(reading.throttled or ()):
        state = "warm"
    return state
