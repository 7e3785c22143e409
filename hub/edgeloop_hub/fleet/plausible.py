"""What of a heartbeat is believed: a device's numbers, within what the time allows, and names of bounded length in all."""

from __future__ import annotations

from collections import Counter

import msgspec

from edgeloop_contract.messages import Heartbeat
from edgeloop_hub.rollouts.evidence import MAX_ANSWERS_PER_SECOND

MAX_REPORT_SECONDS = 30 * 86_400.0  # that one report covers: as long as a report may wait
MAX_LABEL_LETTERS = 32_768  # of all names of labels in one report; the rarest are left out
_COUNTS = ("answered", "refused", "dropped", "labelled", "right")


def plausible(beat: Heartbeat, now: float) -> Heartbeat:
    """The heartbeat as it is stored. A count beyond anything possible is cut down, and a time that is yet to come is now."""
    seconds = min(beat.seconds, MAX_REPORT_SECONDS)
    most = int(MAX_ANSWERS_PER_SECOND * (1 + seconds))
    counts = {name: min(getattr(beat, name), most) for name in _COUNTS}
    counts["right"] = min(counts["right"], counts["labelled"])
    return msgspec.structs.replace(
        beat, seconds=seconds, since=min(beat.since, now), labels=_labels(beat.labels, most),
        confidence=msgspec.structs.replace(
            beat.confidence, count=min(beat.confidence.count, most), mean=min(beat.confidence.mean, 1.0)
        ), **counts,
    )  # fmt: skip


def _labels(labels: dict[str, int], most: int) -> dict[str, int]:
    if sum(map(len, labels)) <= MAX_LABEL_LETTERS:
        return {name: min(count, most) for name, count in labels.items()}
    kept, letters = {}, 0
    for name, count in Counter(labels).most_common():
        letters += len(name)
        if letters > MAX_LABEL_LETTERS:
            break
        kept[name] = min(count, most)
    return kept
