"""The rules of groups: windows by the clock on the wall, and expressions over tags, which the database and the rule read alike."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from edgeloop_contract.errors import UsageError
from edgeloop_hub.groups import expression, store, windows
from edgeloop_hub.storage.fleet_tables import device_tags
from edgeloop_hub.storage.schema import devices
from hub_parts import Parts, parts

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


@pytest.mark.parametrize(
    "window, moment, closes",
    [
        ("mon-fri 22:00-05:00", "2026-11-30T21:59", None),  # a Monday
        ("mon-fri 22:00-05:00", "2026-11-30T22:00", "2026-12-01T05:00"),
        ("mon-fri 22:00-05:00", "2026-12-05T04:59", "2026-12-05T05:00"),  # Friday's, on Saturday
        ("mon-fri 22:00-05:00", "2026-12-05T22:30", None),
        ("mon-fri 22:00-05:00", "2026-11-30T04:00", None),  # Sunday's is none
        ("sat-mon 00:00-24:00", "2026-11-30T10:00", "2026-12-01T00:00"),
        ("sun,wed 08:00-09:00", "2026-12-02T08:30", "2026-12-02T09:00"),
        ("daily 23:30-00:30", "2026-12-31T23:45", "2027-01-01T00:30"),
        ("DAILY 02:15-02:45", "2026-03-29T01:50", None),  # the clock jumps from 2 to 3
        ("daily 01:00-03:30", "2026-03-29T03:15", "2026-03-29T03:30"),
        ("daily 02:00-04:00", "2026-10-25T03:59", "2026-10-25T04:00"),  # the clock goes back from 3 to 2
    ],
)
def test_a_window_by_the_clock_on_the_wall(window: str, moment: str, closes: str | None) -> None:
    found = windows.closes_at([windows.parse(window)], BERLIN, at(moment))
    assert found == (at(closes) if closes else None)


def test_windows_that_follow_each_other_are_one() -> None:
    both = [windows.parse("mon 22:00-24:00"), windows.parse("tue 00:00-03:00")]
    assert windows.closes_at(both, BERLIN, at("2026-11-30T23:00")) == at("2026-12-01T03:00")
    assert windows.opens_at(both, BERLIN, at("2026-12-01T04:00")) == at("2026-12-07T22:00")
    assert windows.closes_at([windows.parse("daily 02:00-04:00")], BERLIN, at("2026-10-25T02:30", fold=1)) == at("2026-10-25T04:00")


@pytest.mark.parametrize(
    "text", ["", "22:00-05:00", "mon 5-6", "mon 22:00-22:00", "someday 01:00-02:00", "mon-funday 01:00-02:00", "mon 10:00-24:30"]
)
def test_a_window_that_is_none_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="window"):
        windows.parse(text)


@pytest.mark.parametrize("text", ["(a", "a b", "and a", "a or", "not", "A", "a) or b", "a & b", "a" * 400, "()"])
def test_an_expression_that_is_none_is_said(text: str) -> None:
    with pytest.raises(UsageError, match="tags"):
        expression.parse(text)


trees = st.recursive(
    st.sampled_from("abc"),
    lambda inner: st.one_of(
        inner.map(lambda one: f"not {one}" if " " not in one else f"not ({one})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda three: f"({three[0]}) {three[1]} ({three[2]})"),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A device for each set of the tags a, b, c."""
    found = parts(tmp_path_factory.mktemp("tagged"))
    for name in ("none", "a", "b", "c", "ab", "ac", "bc", "abc"):
        found.device(name)
        with found.hub.database.writing() as database:
            for tag in name if name != "none" else "":
                database.execute(insert(device_tags).values(device=name, tag=tag, fixed=0))
    return found


@given(trees)
def test_the_database_and_the_rule_agree(tagged: Parts, text: str) -> None:
    group = store.Group("g", text[:300], "", (), "UTC", "", 0.0)
    parsed = expression.parse(text)
    expected = {name for name in ("none", "a", "b", "c", "ab", "ac", "bc", "abc")
                if expression.matches(parsed, set(name) if name != "none" else set())}  # fmt: skip
    same = eval(text, {}, dict.fromkeys("abc", False))
    assert ("none" in expected) == same  # Python reads and, or, not as we do
    with tagged.hub.database.reading() as database:
        assert set(database.execute(select(devices.c.name).where(store.condition(group, devices.c.name))).scalars()) == expected
