"""A hundred thousand requests to a model of named tensors: what is right is answered rightly, the rest is refused in words."""

from __future__ import annotations

import collections
import random
from pathlib import Path

import numpy as np
import pytest

from bundles import two_inputs
from edgeloop_agent.config import Api as Settings
from edgeloop_agent.config import Config
from edgeloop_agent.local_api.connection import Refusal, Request
from edgeloop_agent.local_api.server import Api
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts, resident_bytes
from edgeloop_agent.models import Models
from edgeloop_contract.inference import HEADER_LENGTH, decode_response
from spoiled_requests import body_of

PATH = "/v2/models/named/infer"
OVERFLOWED = "named answered with NaN or infinity"


def probabilities(inputs: dict[str, np.ndarray]) -> np.ndarray:
    sums = inputs["motion"].astype(float) * 2 + inputs["sound"]
    exp = np.exp(sums - sums.max(1, keepdims=True))
    return np.asarray(exp / exp.sum(1, keepdims=True))


@pytest.fixture
def api(tmp_path: Path) -> Api:
    counts, log = Counts(), Log("error")
    config = Config(bundles=[str(two_inputs(tmp_path / "a.edgeloop"))], state=str(tmp_path / "state"))
    return Api(Settings(), Models(config, counts, log), counts, log, lambda: True)


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.long)])
def test_spoiled_requests_are_refused_and_right_ones_answered(count: int, api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(27)
    seen: collections.Counter[str] = collections.Counter()
    began = 0
    for number in range(count):
        body, length, right = body_of(rng)
        headers = {} if length is None else {HEADER_LENGTH.lower(): str(length)}
        try:
            response = api.answer(Request("POST", PATH, headers, body))
        except Refusal as refusal:
            if str(refusal) == OVERFLOWED:  # values of 1e38 by chance, and the model's own answer to them
                assert right is None
                continue
            assert 400 <= refusal.status < 500 and right is None and str(refusal) and "Traceback" not in str(refusal), (
                body,
                length,
            )
            seen["refused"] += 1
            continue
        json_length = response.headers.get(HEADER_LENGTH)
        outputs, _ = decode_response(response.content, None if json_length is None else int(json_length))
        if right is not None:
            np.testing.assert_allclose(outputs["probabilities"], probabilities(right), atol=1e-5)
        assert all(np.isfinite(values).all() for values in outputs.values())
        seen["right" if right else "answered"] += 1
        if number > count // 10 and not began:
            began = resident_bytes()
    assert resident_bytes() - began < 30e6, "memory is bounded"
    assert seen["refused"] > count / 2 and seen["right"] > count / 20 and seen["answered"], seen
    assert "level=error" not in capfd.readouterr().err
