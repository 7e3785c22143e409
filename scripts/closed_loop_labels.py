"""The scripted labeller of `make loop`: it answers the queue with the truth."""

from __future__ import annotations

import sys
import time
from typing import Any

from closed_loop_devices import (
    truth_of,
)


def label_queue(story: Any, budget: int) -> int:
    """The scripted labeller: answers the queue, most informative first, with the truth; how many it was asked.

    A set of repetitions is one exercise, so each answer is for the whole recording.
    """
    from edgeloop_contract.sample_messages import LabelAssignment, LabelUpload

    hub, asked = story.client(), 0
    while asked < budget:
        queue = hub.queue("exercise_watch", min(50, budget - asked), "script")
        if not queue:
            return asked
        first = {(s.device, s.recording): s for s in reversed(queue)}.values()
        labels = [LabelAssignment(s.device, s.key, truth_of(s.recording), whole=True) for s in first]
        hub.upload_labels(LabelUpload(labels, "script"))
        asked += len(labels)
    return asked


def labelled(story: Any) -> int:
    return len(story.client().samples("exercise_watch", "labelled"))


def rest_came(story: Any, seconds: float = 60.0) -> None:
    """Wait until the devices have sent the rest of the recordings that were labelled."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if all(r.released for r in story.client().recording_labels("exercise_watch")):
            return
        time.sleep(0.5)
    sys.exit("devices did not send the rest of their recordings")
