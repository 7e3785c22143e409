"""Encoders of sound, transformers over a spectrum or over convolutions of the sound: from a file to the agent's answers."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

import edgeloop
from commands import command, edgeloop_here
from edgeloop_agent.sources.readers import read
from edgeloop_contract.preprocessing import Pad, SoundFeatures, ToFloat, prepare
from sound_models import BANDS, POINTS, RATE, encoder, recordings

FEATURES = SoundFeatures(rate_hz=RATE, window=256, hop=128, bands=BANDS, log="natural", offset=1e-3)
STEPS = {"spectrum": [Pad(length=POINTS), ToFloat(), FEATURES], "sound": [Pad(length=POINTS), ToFloat()]}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["spectrum", "sound"])
def test_an_encoder_of_sound_goes_from_file_to_answers(kind: str, tmp_path: Path) -> None:
    model, sounds = encoder(tmp_path / "net.onnx", kind == "sound"), recordings(tmp_path / "sounds", 48)
    (tmp_path / "steps.yaml").write_bytes(msgspec.json.encode(STEPS[kind]))
    where = ("--calibrate", sounds, "--out", tmp_path / "small", "--runs", tmp_path / "runs")
    done = edgeloop_here("compress", model, *where, "--preprocess", tmp_path / "steps.yaml", "--measure", "cosine", "--json")
    assert done.returncode == 0, done.stderr
    verified = next(stage["metrics"] for stage in json.loads(done.stdout)["stages"] if stage["name"] == "verify")
    assert set(verified["variants"]) == {"onnx-int8", "tflite-int8"}
    assert all(file["accuracy"]["value"] >= 0.995 for file in verified["variants"].values()), verified["variants"]
    path = tmp_path / "runs" / "small" / "small-1.edgeloop"
    done = command("edgeloop-agent", "run", path, "--source", sounds, "--state", tmp_path / "state")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 48 and not any("refused" in line for line in lines)
    # The agent's vector is near the float file's, from the recording to the answer.
    session = onnxruntime.InferenceSession(model)
    sample = prepare(STEPS[kind], read(sounds / "00.wav").values).values
    (wanted,) = session.run(None, {"sound": sample.transpose(0, 2, 1) if kind == "sound" else sample})
    (vector,) = edgeloop.open(path, variant="tflite-int8", state=tmp_path / "state")(sounds / "00.wav").tensors.values()
    assert float(vector @ wanted[0] / np.linalg.norm(vector) / np.linalg.norm(wanted[0])) >= 0.99
