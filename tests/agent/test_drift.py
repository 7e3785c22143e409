"""The drift monitor: false alarms as set, changes noticed and named, over the fleet too."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from commands import HERE
from edgeloop_agent.drift.diagnosis import changed_since, diagnose
from edgeloop_agent.drift.monitor import DriftFollower
from edgeloop_contract.archive import Bundle
from edgeloop_contract.drift import Drift, Monitor, channel_names, input_features, sample_features, sample_names
from edgeloop_contract.hub_messages import GroupVariance
from edgeloop_contract.messages import DriftReport
from edgeloop_contract.sample_messages import FeatureShift
from edgeloop_hub.drift.discoveries import discovered, p_value
from edgeloop_hub.drift.discoveries import shifts as in_fleet
from edgeloop_pipeline.drift.calibration import calibrate, reference_of, too_few
from edgeloop_pipeline.drift.pool import Pool
from edgeloop_pipeline.drift.variance import between_group_variance

N, F = 1500, 6
BUNDLE = HERE / "goldens" / "v0.2" / "exercise_watch-1.edgeloop"


@pytest.fixture(scope="module")
def reference() -> Drift:
    sample = np.random.default_rng(0).standard_normal((N, F))
    return calibrate(Pool(sample, np.zeros(N, dtype=np.intp), np.arange(N), np.arange(N)), [f"f{i}" for i in range(F)], 1)


@pytest.mark.parametrize("per_10k", [2.0, 20.0])
def test_false_alarms_are_near_the_setting(reference: Drift, per_10k: float) -> None:
    """One reference of many: its own luck counts, so the bounds are wide. The mean over references is in docs/benchmarks.md."""
    monitor, alarms = Monitor(reference, per_10k), 0
    for row in np.random.default_rng(1).standard_normal((30_000, F)):
        if monitor.observe(row, 0):
            alarms += 1
            monitor.reset()
    assert 0.4 * per_10k < alarms / 3 < 2.0 * per_10k


@pytest.mark.long
def test_false_alarms_of_few_recordings_whose_windows_stray_together() -> None:
    """Sixty recordings have hardly seen what comes twice in 10,000 windows; by resampling them alone it came 26 times."""
    alarms = windows = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def recordings(count: int, rng: np.random.Generator = rng) -> np.ndarray:
            return (0.7 * rng.standard_normal((count, 1, 8)) + rng.standard_normal((count, 12, 8))).reshape(-1, 8)

        x = recordings(60)
        pool = Pool(x, np.zeros(len(x), dtype=int), np.arange(60).repeat(12), np.zeros(len(x), dtype=int))
        monitor = Monitor(calibrate(pool, [f"f{i}" for i in range(8)], 1, seed=seed), 2.0)
        for row in recordings(800):
            windows += 1
            if monitor.observe(row, 0):
                alarms += 1
                monitor.reset()
        noticed = [monitor.observe(row, 0) for row in recordings(40) + 2.0]
        assert any(noticed)
    assert alarms / windows * 10_000 < 6


@pytest.mark.parametrize(
    ("groups", "samples", "each", "few"),
    [(2, 5000, 1, True), (5, 508, 23, True), (5, 2300, 23, False), (5, 100, 1, False)],
)
def test_what_is_no_reference_by_itself(groups: int, samples: int, each: int, few: bool) -> None:
    """`each`: samples of a recording. Samples that are recordings of their own are told from by themselves."""
    place = np.arange(samples)
    assert too_few(place % groups, place // each) == few


@pytest.mark.long
def test_strange_recordings_count_as_they_come_and_a_lasting_change_is_noticed_among_them() -> None:
    """One recording in twelve is strange, and raises one alarm after the other; by first alarms alone it came 89 times."""

    def recordings(rng: np.random.Generator, count: int) -> np.ndarray:
        strange = np.where(rng.random((count, 1, 1)) < 1 / 12, 1.5, 0.1)
        return (strange * rng.standard_normal((count, 1, 8)) + rng.standard_normal((count, 12, 8))).reshape(-1, 8)

    alarms, windows, delays = 0, 0, []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = recordings(rng, 120)
        pool = Pool(x, np.zeros(len(x), dtype=int), np.arange(120).repeat(12), np.zeros(len(x), dtype=int))
        monitor = Monitor(calibrate(pool, [f"f{i}" for i in range(8)], 1, seed=seed), 20.0)
        for row in recordings(rng, 500):
            windows += 1
            if monitor.observe(row, 0):
                alarms += 1
                monitor.reset()
        noticed = [monitor.observe(row, 0) for row in recordings(rng, 100) + 0.6]
        delays.append(noticed.index(True) if True in noticed else len(noticed))
    assert alarms / windows * 10_000 < 30
    assert np.mean(delays) < 100


@pytest.mark.parametrize(
    ("change", "within"), [(lambda x: x + 3 * np.eye(F)[0], 15), (lambda x: x + 0.5, 100), (lambda x: x * 1.5, 150)]
)
def test_changes_are_noticed(reference: Drift, change: object, within: int) -> None:
    monitor, rng = Monitor(reference, 1.0), np.random.default_rng(2)
    for row in rng.standard_normal((200, F)):
        monitor.observe(row, 0)
    monitor.reset()
    noticed = [monitor.observe(row, 0) for row in change(rng.standard_normal((within, F)))]  # type: ignore[operator]
    assert any(noticed)


def test_rates_between_and_beyond_the_table_are_in_order(reference: Drift) -> None:
    found = [reference.limits_at(rate) for rate in (0.01, 0.1, 0.7, 3.0, 100.0, 900.0)]
    assert all((np.diff(found, axis=0) <= 0).ravel()) and np.min(found) > 0
    assert msgspec.json.decode(msgspec.json.encode(reference), type=Drift) == reference


def test_a_reference_that_cannot_be_is_refused(reference: Drift) -> None:
    raw = msgspec.to_builtins(reference)
    still = (0 * np.asarray(reference.limits)).tolist()
    for name, value in (
        ("mean", [0.0]), ("scale", [0.0] * F), ("rates", []), ("memories", [4.0]), ("limits", []), ("limits", still), ("limits", [[1.0], []]),
        ("between", [0.1]), ("within", [0.1]), ("places", N + 1),
    ):  # fmt: skip
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**raw, name: value}, Drift)


def channels(values: np.ndarray) -> np.ndarray:
    return np.stack([input_features(v[None]) for v in values])


def signals(rng: np.random.Generator, n: int = 200) -> np.ndarray:
    """Three channels with an offset, a strength and a speed of their own."""
    steps = rng.standard_normal((n, 100, 3)) * [50, 200, 20]
    steps[:, :, 0] = np.cumsum(steps[:, :, 0], axis=1) / 5
    return (steps + [1000, 0, -600] + rng.standard_normal((n, 1, 3)) * 30).astype(np.int16)


def smoothed(x: np.ndarray) -> np.ndarray:
    centre = x.mean(axis=1, keepdims=True)
    return centre + np.apply_along_axis(lambda c: np.convolve(c, np.ones(15) / 15, "same"), 1, x - centre)


@pytest.mark.long
@pytest.mark.parametrize(
    ("cause", "change"),
    {
        "fault": lambda x: x * [1, 0, 1],
        "miswired": lambda x: x[..., [1, 2, 0]],
        "gain": lambda x: (x - [1000, 0, -600]) * 0.3 + [1000, 0, -600],
        "offset": lambda x: x + 400,
        "dirty": lambda x: smoothed(x),
    }.items(),
)  # fmt: skip
def test_the_cause_is_named(cause: str, change: object) -> None:
    rng = np.random.default_rng(3)
    usual = channels(signals(rng, 600))
    pool = Pool(usual, np.zeros(600, dtype=np.intp), np.arange(600), np.arange(600))
    reference = calibrate(pool, channel_names(3), 1)
    odd = channels(np.asarray(change(signals(rng).astype(float))).astype(np.int16))  # type: ignore[operator]
    monitor = Monitor(reference)
    noticed = next(i for i, row in enumerate(odd) if monitor.observe(row, 0))
    worst = int(np.abs(monitor.largest).argmax())
    assert noticed < 60
    features = np.concatenate([usual[:100], odd[:100]])
    found = diagnose(reference, features, np.zeros(200, dtype=int), worst)
    assert found.cause == cause, found
    assert 60 <= found.samples <= 140


def test_the_cause_is_named_with_the_input_that_it_is_in() -> None:
    """Of a model with several inputs; each has channels of its own."""
    rng = np.random.default_rng(4)

    def both(n: int, changed: int = 0) -> np.ndarray:
        left, right = signals(rng, n).astype(float), signals(rng, n).astype(float)
        right[n - changed :, :, 1] = 0
        return np.stack([sample_features({"left": a[None], "right": b[None]}) for a, b in zip(left, right, strict=True)])

    usual = both(400)
    names = sample_names({"left": (100, 3), "right": (100, 3)})
    reference = reference_of(Pool(usual, np.zeros(400, dtype=np.intp), np.arange(400), np.arange(400)), names, 1)
    worst = names.index("right: spread of channel 1")
    found = diagnose(reference, both(200, 100), np.zeros(200, dtype=int), worst)
    assert found.cause == "fault" and found.text.startswith("right: channel 1 hardly moves"), found


def test_the_change_came_before_the_alarm() -> None:
    """What stands out in the last samples alone is no later change."""
    watched = np.zeros((100, 1))
    watched[50:] = 1.0
    watched[-3:] = 8.0
    assert changed_since(watched, 0) == 3
    assert changed_since(watched, 0, least=40) == 50
    assert changed_since(watched[-10:], 0, least=40) == 10


def test_a_restart_goes_on_where_it_was() -> None:
    with Bundle.open(BUNDLE) as bundle:
        manifest, inputs, scores = bundle.manifest, bundle.array("canary/inputs.npy"), bundle.array("canary/scores.npy")
    assert manifest.drift is not None
    whole, first = (DriftFollower(manifest, manifest.drift, 1.0) for _ in range(2))
    for i in range(20):
        whole.observe(inputs[i : i + 1], scores[i : i + 1])
    for i in range(10):
        first.observe(inputs[i : i + 1], scores[i : i + 1])
    second = DriftFollower(manifest, manifest.drift, 1.0)
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=type(first.state())))
    for i in range(10, 20):
        second.observe(inputs[i : i + 1], scores[i : i + 1])
    assert second.monitor.score == whole.monitor.score and second.seen == whole.seen


def test_an_episode_and_its_cause_go_on_after_a_restart() -> None:
    with Bundle.open(BUNDLE) as bundle:
        manifest, inputs, scores = bundle.manifest, bundle.array("canary/inputs.npy"), bundle.array("canary/scores.npy")
    assert manifest.drift is not None
    follower, odd = DriftFollower(manifest, manifest.drift, 10.0), inputs[..., [1, 2, 0, 4, 5, 3]]
    for i in range(60):
        follower.observe(odd[i % len(odd)][None], scores[i % len(odd)][None])
    assert follower.drifting and follower.first_alarm is not None and follower.first_alarm < 40
    follower.diagnose()
    again = DriftFollower(manifest, manifest.drift, 10.0)
    again.restore(follower.state())
    assert again.finding == follower.finding
    assert again.finding is not None and again.finding.samples > again.seen - follower.first_alarm


def test_over_the_fleet_chance_makes_few_discoveries() -> None:
    rng = np.random.default_rng(4)
    fleets = [[FeatureShift(f"d{i}", "f", 0.0, 100, float(p)) for i, p in enumerate(rng.random(200))] for _ in range(200)]
    assert sum(bool(discovered(f)) for f in fleets) / 200 < 0.1
    real = [FeatureShift("odd", "f", 1.0, 100, 1e-9), *fleets[0]]
    assert discovered(real)[0].device == "odd"


def fleet_of(rng: np.random.Generator, places: int, odd: float = 0.0) -> list[FeatureShift]:
    """Discoveries in a fleet of six devices, of people as different as the reference's: 5 to 25 recordings of 10 samples each.

    Of the first device the first feature is off by `odd`.
    """

    def person(recordings: int) -> Any:
        each = rng.normal(0, 0.5, 8) + rng.normal(0, 0.4, (recordings, 1, 8)) + rng.normal(0, 1, (recordings, 10, 8))
        return each.reshape(-1, 8)

    sizes = rng.integers(5, 25, places + 6)
    people = [person(n) for n in sizes]
    values = np.concatenate(people[:places])
    recordings, groups = np.arange(len(values)) // 10, np.repeat(np.arange(places), sizes[:places] * 10)
    between, within, count = between_group_variance(values, recordings, groups)
    names = [f"f{i}" for i in range(8)]
    variance = GroupVariance(
        dict(zip(names, between.tolist(), strict=True)), dict(zip(names, within.tolist(), strict=True)), count, len(values),
        int(sizes[:places].sum()),
    )  # fmt: skip
    rows = {}
    for device, found in enumerate(people[places:]):
        found[:, 0] += odd * (device == 0)
        shifts = dict(zip(names, found.mean(0).tolist(), strict=True))
        report = DriftReport(model="m", sha256="a", samples=len(found), shifts=shifts)
        rows[f"d{device}"] = [(0.0, report), (1.0, DriftReport(model="m", sha256="a"))]  # nothing was answered since
    return in_fleet(rows, {"a": variance})


@pytest.mark.parametrize("places", [3, 5, 12])
def test_other_people_are_no_discovery_and_a_broken_sensor_is(places: int) -> None:
    rng = np.random.default_rng(places)
    assert np.mean([bool(fleet_of(rng, places)) for _ in range(100)]) <= 0.1
    found = [fleet_of(rng, places, 20.0 if places > 3 else 60.0) for _ in range(20)]
    assert np.mean([bool(f) and (f[0].device, f[0].feature) == ("d0", "f0") for f in found]) >= 0.8


def test_samples_by_themselves_stray_by_their_number_alone() -> None:
    between, within, places = between_group_variance(
        np.random.default_rng(0).normal(0, 1, (500, 3)), np.arange(500), np.arange(500) % 2
    )
    assert not between.any() and not within.any() and places == 0
    measured = GroupVariance({"f": 0.0}, {"f": 0.0}, 0, 500, 500)
    assert abs(p_value(measured, "f", 1.96 / 10, 100) - 0.05) < 1e-3
    older = GroupVariance({"f": 0.3})
    assert p_value(older, "f", 16.0, 100) < 0.01 < p_value(older, "f", 1.0, 100)
    for variance in (measured, older, GroupVariance()):
        assert p_value(variance, "a feature that only the device knows", 99.0, 100) == 1.0
