"""What tests/agent/test_openvino.py checks in a process of its own, which holds OpenVINO and no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgeloop_agent.runtimes import RuntimeOptions, open_runtime
from edgeloop_agent.runtimes.named import calls
from edgeloop_agent.trial_samples import trial_samples
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DeviceError

BY_OPENVINO = RuntimeOptions(way="OpenVINO")


def answers_are_the_same(bundle: str) -> None:
    with Bundle.open(Path(bundle)) as opened:
        for variant in (v for v in opened.manifest.variants if v.runtime == "onnx"):
            model, samples = opened.read(variant.file), trial_samples(opened)
            ours, theirs = (open_runtime(variant, model, 1, options) for options in (BY_OPENVINO, RuntimeOptions()))
            assert ours.description.startswith("OpenVINO 20")
            for run, rows, other in [(*calls(ours, samples), calls(theirs, samples)[0])]:
                for row in rows[:8]:
                    same(run(row), other(row))
            if len(samples) == 1:
                (values,) = samples.values()
                same(ours.run(values[:3]), np.concatenate([ours.run(values[i : i + 1]) for i in range(3)]))


def same(ours: Any, theirs: Any) -> None:
    """By output, or of the only one; an int8 file may round a step of 1/256 otherwise."""
    if not isinstance(ours, dict):
        ours, theirs = {"": ours}, {"": theirs}
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        wanted = np.asarray(theirs[name])
        assert values.shape == wanted.shape and values.dtype == wanted.dtype
        assert np.abs(values - wanted).max() <= np.abs(wanted).max() / 64


def refuses_what_is_no_model(bundle: str) -> None:
    with Bundle.open(Path(bundle)) as opened:
        variant = opened.manifest.variant("onnx-int8")
    try:
        open_runtime(variant, b"no model", 1, BY_OPENVINO)
    except DeviceError as error:
        assert str(error).startswith("OpenVINO 20") and "refuses models/onnx-int8.onnx" in str(error), error
    else:
        raise AssertionError("it was taken")
