"""What changed, in words: rules over the features of the samples since the change, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from edgeloop_contract.arrays import Array
from edgeloop_contract.drift import Drift, Monitor

MIN_SAMPLES = 32  # before a diagnosis names exchanged channels or a weak signal
MAX_PERMUTED = 6
DEAD = 0.05  # of a channel's usual spread
LARGE = 1.0  # standard deviations of one sample by which a mean is off
MIN_MISFIT, EXPLAINED = 0.4, 0.4  # squared deviations a channel; and what may be left of them once channels are exchanged
TOP = 3
BOXES = "log boxes"  # the first feature of a detector's boxes; mean score, log size, x and y follow
FEW = 0.2  # of the usual number of boxes: there is nothing to see
DIM = 0.6  # of the usual brightness: the light is gone, and not what there was to see
RESIZED = 1.3  # times the usual size of boxes


@dataclass(frozen=True)
class Finding:
    """`cause`: fault, miswired, nothing, moved, dirty, gain, offset, mix or population. `samples`: since the change."""

    cause: str
    text: str
    samples: int


def changed_since(monitored: Array, worst: int, least: int = 1) -> int:
    """How many of the last samples are after the change: the suffix of (n, N) whose mean is least likely for the number `worst`.

    At least `least` of them are, or all that there are.
    """
    column = monitored[::-1, worst]
    n = np.arange(1, len(column) + 1)
    first = min(least, len(column)) - 1
    return first + int(np.argmax((np.abs(np.cumsum(column)) / np.sqrt(n))[first:])) + 1


def monitored_numbers(reference: Drift, features: Array, answers: Array) -> Array:
    """(n, N) standardised numbers of (n, F) features."""
    monitor = Monitor(reference)
    return np.stack([monitor.monitored(row, int(answer)).copy() for row, answer in zip(features, answers, strict=True)])


def diagnose(reference: Drift, features: Array, answers: Array, worst: int, least: int = 1) -> Finding:
    """From the last samples (n, F), their answers (n,), and the number that wandered farthest when the alarm was raised.

    `least`: samples since that alarm; the change came before it.
    """
    since = changed_since(monitored_numbers(reference, features, answers), worst, least)
    after = features[-since:].mean(axis=0)
    overall = np.asarray(reference.overall)
    shift = (after - overall[0]) / overall[1]
    inputs = _inputs(reference.features)
    order = np.argsort(-np.abs(shift))[:TOP]
    shifts = ", ".join(f"{reference.features[i]} {shift[i]:+.1f} sd" for i in order if abs(shift[i]) >= 0.3)
    cause, text = _scene(reference.features, overall, after, shift, inputs, since)
    for name, place in sorted(inputs.items(), key=lambda each: -np.abs(shift[each[1]]).max()) if not cause else ():
        cause, text = _cause(overall[:, place], after[place], shift[place], (place.stop - place.start) // 3, since)
        if cause:
            text = f"{name}: {text}" if name else text
            break
    if not cause:
        mix = worst >= 2 * len(reference.features) + len(reference.projections)
        calm = all(np.abs(shift[place]).max() < LARGE for place in inputs.values())
        causes = {
            (True, True): ("mix", "other answers than usual, on usual inputs"),
            (False, True): ("population", "the model answers otherwise than usual, on inputs that look usual one by one"),
        }
        cause, text = causes.get((mix, calm), ("population", "inputs are different"))
    return Finding(cause, f"{text} ({shifts})" if shifts else text, since)


def _scene(
    features: Sequence[str], overall: Array, after: Array, shift: Array, inputs: Mapping[str, slice], since: int
) -> tuple[str, str]:
    """What a detector's boxes say of the camera; ("", "") where they say nothing, and where the sensor itself explains it."""
    if BOXES not in features or since < MIN_SAMPLES or len(inputs) != 1:
        return "", ""
    boxes, usual = list(features).index(BOXES), overall[0]
    count, size, x, y = boxes, boxes + 2, boxes + 3, boxes + 4
    (place,) = inputs.values()
    channels = (place.stop - place.start) // 3
    if _exchanged(overall[:, place], after[place], channels):
        return "", ""
    brightness = float(np.median(after[place][:channels] / np.maximum(usual[place][:channels], 1e-9)))
    found = float(np.expm1(after[count]) / max(np.expm1(usual[count]), 1e-9))
    if found < FEW:  # where light or fine detail is gone, the model may not see what is there
        seen = brightness > DIM and not _smooth(overall[:, place], after[place], shift[place], channels)
        return ("nothing", f"{found:.0%} of the usual boxes: there is nothing to see") if seen else ("", "")
    larger = float(np.expm1(after[size]) / max(np.expm1(usual[size]), 1e-9))
    if not 1 / RESIZED < larger < RESIZED:
        return (
            "moved",
            f"boxes are {larger:.1f} times as large as usual: the camera is {'nearer' if larger > 1 else 'farther away'}",
        )
    ways = [(abs(shift[x]), ("left", "right")[int(shift[x] > 0)]), (abs(shift[y]), ("top", "bottom")[int(shift[y] > 0)])]
    far, side = max(ways)
    text = f"boxes lie more to the {side} than usual: the camera was moved or turned"
    return ("moved", text) if far > LARGE else ("", "")


def _inputs(features: Sequence[str]) -> dict[str, slice]:
    """Where each input's features stand, three a channel; "" is the name of a model's only input."""
    found: dict[str, slice] = {}
    for name, *_ in (feature.split("mean of channel") for feature in features if "mean of channel" in feature):
        label, first = name.removesuffix(": "), max((place.stop for place in found.values()), default=0)
        if label not in found:
            channels = sum(feature.startswith(f"{name}mean of channel") for feature in features)
            found[label] = slice(first, first + 3 * channels)
    return found


def _cause(overall: Array, after: Array, shift: Array, channels: int, since: int) -> tuple[str, str]:
    """A fault of the sensor, as far as it shows in the channels; ("", "") where it does not."""
    spread, rough = slice(channels, 2 * channels), slice(2 * channels, 3 * channels)
    ratio = np.expm1(after[spread]) / np.maximum(np.expm1(overall[0, spread]), 1e-9)
    finer = np.expm1(after[rough]) / np.maximum(np.expm1(overall[0, rough]), 1e-9)
    dead = np.flatnonzero((ratio < DEAD) & (overall[0, spread] > np.log1p(1.0)))
    if len(dead):
        return "fault", f"channel {', '.join(map(str, dead))} hardly moves: a sensor or its cable has failed"
    if since < MIN_SAMPLES:
        return "", ""
    exchanged = _exchanged(overall, after, channels)
    if exchanged:
        return "miswired", f"channels look exchanged or turned: {exchanged}"
    means, spreads = shift[:channels], shift[spread]
    if _smooth(overall, after, shift, channels):
        return "dirty", f"fine detail is down to {np.median(finer):.0%}: a dirty or misted lens, or a loose mount"
    same_direction = bool((spreads > LARGE).all() or (spreads < -LARGE).all())
    if same_direction and np.ptp(np.log(np.maximum(ratio, 1e-9))) < 0.7:
        return "gain", f"the signal is {np.median(ratio):.2f} times as strong as usual: gain, range or distance changed"
    if bool((means > LARGE).all() or (means < -LARGE).all()) and bool((np.abs(spreads) < LARGE).all()):
        return "offset", f"all values are {'higher' if means[0] > 0 else 'lower'} than usual: lighting, zero point or temperature"
    return "", ""


def _smooth(overall: Array, after: Array, shift: Array, channels: int) -> bool:
    """Whether fine detail went from every channel, more than the signal did."""
    ratio, finer = (
        np.expm1(after[part]) / np.maximum(np.expm1(overall[0, part]), 1e-9)
        for part in (slice(channels, 2 * channels), slice(2 * channels, 3 * channels))
    )
    roughs = shift[2 * channels : 3 * channels]
    return bool((roughs < -0.5).all()) and float(np.median(finer / np.maximum(ratio, 1e-9))) < 0.8


def _exchanged(overall: Array, after: Array, channels: int) -> str:
    """Which channel carries which one's signal, where that explains the change far better than a change of the signals."""
    if not 2 <= channels <= MAX_PERMUTED:
        return ""
    usual, scale = (part[: 3 * channels].reshape(3, channels) for part in overall)
    now = after[: 3 * channels].reshape(3, channels)
    straight, turned = usual.copy(), usual.copy()
    turned[0] = -turned[0]
    # cost[i, j]: how badly channel i's signal of now fits channel j's usual one, the sign being free
    gap = [((now[:, :, None] - side[:, None, :]) / scale[:, None, :]) ** 2 for side in (straight, turned)]
    plain, cost = gap[0].sum(0), np.minimum(gap[0].sum(0), gap[1].sum(0))
    as_is = float(np.trace(plain))
    orders = np.array(list(permutations(range(channels))))
    costs = cost[np.arange(channels), orders].sum(axis=1)
    best = orders[int(costs.argmin())]
    if as_is < MIN_MISFIT * channels or float(costs.min()) > EXPLAINED * as_is:
        return ""
    moved = [f"{i} carries {j}" for i, j in enumerate(best) if i != j]
    turned_over = [i for i, j in enumerate(best) if gap[1].sum(0)[i, j] < EXPLAINED * plain[i, j]]
    return ", ".join(moved + ([f"{', '.join(map(str, turned_over))} with the other sign"] if turned_over else []))
