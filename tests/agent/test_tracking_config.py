"""Lines and zones that a config gets wrong: each is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeloop_agent.config import Config, CountedLine, CountedZone, Source, Tracking, load
from edgeloop_agent.config.tracked import problems_of_tracking
from edgeloop_contract.errors import UsageError

DOOR = CountedLine("door", [(0.5, 0.0), (0.5, 1.0)])
HALL = CountedZone("hall", [(0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)])
LINE = '[[tracking.line]]\nname = "door"\npoints = '
ZONE = '[[tracking.zone]]\nname = "hall"\npoints = '
BAD = {
    "equal points": (f"{LINE}[[0.5, 0.5], [0.5, 0.5]]", "tracking.line[0].points: both are [0.5, 0.5]; a line needs two different"),
    "one point": (f"{LINE}[[0.5, 0.5]]", "tracking.line[0].points: 1 points; a line has two"),
    "pixels": (f"{LINE}[[0.5, 0.5], [320, 200]]", "[320.0, 200.0] is outside of the picture; write shares"),
    "NaN": (f"{LINE}[[nan, 0.5], [1, 1]]", "[nan, 0.5] is outside of the picture"),
    "two corners": (f"{ZONE}[[0, 0], [1, 1]]", "tracking.zone[0].points: 2 corners; a zone has 3 to 64"),
    "a flat zone": (f"{ZONE}[[0, 0], [0.5, 0.5], [1, 1]]", "all corners lie on one line"),
    "three numbers": (f"{LINE}[[0.5, 0.5, 1], [1, 1]]", "tracking.line[0].points[0]: expected `array` of length 2"),
    "one name twice": (f"{LINE}[[0, 0], [1, 1]]\n{LINE}[[0, 1], [1, 0]]", "tracking.line[1].name: 'door' is there twice"),
    "a wrong setting": ("max_mising = 3", "tracking.max_mising: unknown setting; did you mean max_missing?"),
    "a share of 2": ("min_iou = 2", "tracking.min_iou"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_one_sentence(name: str, tmp_path: Path) -> None:
    text, why = BAD[name]
    path = tmp_path / "agent.toml"
    path.write_text(f'bundles = ["m"]\n[source]\nkind = "folder"\nwhere = "in"\n[tracking]\nenabled = true\n{text}\n')
    with pytest.raises(UsageError) as caught:
        load(path)
    assert why in str(caught.value) and "1 problem:" in str(caught.value)


def test_what_cannot_be_followed_is_said() -> None:
    silent = Config(bundles=["m"], source=Source(kind="microphone"), tracking=Tracking(enabled=True))
    assert "source.kind is 'microphone'" in "".join(problems_of_tracking(silent))
    off = Config(bundles=["m"], tracking=Tracking(line=[DOOR]))
    assert "tracking is off; set tracking.enabled = true" in "".join(problems_of_tracking(off))
    many = Config(bundles=["m"], source=Source(kind="camera"), tracking=Tracking(enabled=True, zone=[HALL] * 33))
    assert "33 of them; at most 32" in "".join(problems_of_tracking(many))
