"""Today's code reads the bundle of every release, and gives its answers."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from commands import HERE, command
from edgeloop_agent.engine import Engine
from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.archive import Bundle
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.manifest import Precision
from edgeloop_contract.manifest_json import decode, encode

BUNDLES = sorted((HERE / "goldens").glob("v0.[123]/*.edgeloop"))
NAMED = HERE / "goldens" / "v0.4"  # schema 2: several inputs, probabilities, a canary of two outputs; state


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


def test_named_tensors_answer_as_they_did() -> None:
    with Bundle.open(NAMED / "two-inputs-1.edgeloop") as bundle:
        engine, canary = Engine(bundle, VariantChoice("onnx-float32", 1, "")), bundle.manifest.canary
        samples = {name: bundle.array(file) for name, file in canary.inputs.items()}
        for i in range(4):
            found = engine.outputs({name: values[i : i + 1] for name, values in samples.items()}, {})
            for name, golden in canary.golden.items():
                assert np.abs(found[name] - bundle.array(golden.file)[i]).max() <= golden.max_steps * golden.step
    with Bundle.open(NAMED / "sums-1.edgeloop") as bundle:
        engine = Engine(bundle, VariantChoice("onnx-float32", 1, ""))
    answers = list(engine.answers(np.array([[1, 2], [3, 4]], np.float32)))
    assert [answer.tensors["sum"].tolist() for answer in answers] == [[1, 2], [4, 6]]


@pytest.mark.parametrize("path", sorted((HERE / "goldens").glob("v*/*.edgeloop")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_manifest_that_is_read_is_written_alike(path: Path) -> None:
    """Schema 1 as schema 1, byte for byte: the oldest agents take what today's code writes again."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read("manifest.json")
    assert encode(decode(data, "here")) == data
