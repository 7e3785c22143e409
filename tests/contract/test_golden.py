"""Today's code reads the bundle of every release, and gives its answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import HERE, command
from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.archive import Bundle
from edgeloop_contract.manifest import Precision

BUNDLES = sorted((HERE / "goldens").glob("v*/*.edgeloop"))


def test_there_is_one() -> None:
    assert BUNDLES


@pytest.mark.parametrize("path", BUNDLES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_reads_and_answers(path: Path) -> None:
    with Bundle.open(path) as bundle:
        canary = bundle.manifest.canary
        inputs, scores = bundle.array(canary.input), bundle.array(canary.scores.file)
        for variant in bundle.manifest.variants:
            if variant.precision == Precision.INT8:
                found = open_runtime(variant, bundle.read(variant.file)).run(inputs)
                assert np.abs(found - scores).max() <= (canary.scores.max_steps + 0.01) * canary.scores.step
    done = command("edgeloop-agent", "run", path, "--source", path.parent / "recording.csv")
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == json.loads(
        (path.parent / "answers.json").read_text()
    )
