"""A model of two inputs on its whole way: packed with a drift reference, watched on a device, its samples labelled at the hub."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from test_loop import settings

from bundles import F, onnx_file
from commands import command, edgeloop_here
from edgeloop_agent.config import Samples as Settings
from edgeloop_agent.outbox.redaction import packed, redacted_again
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DataError
from edgeloop_contract.messages import NamedArray, Sample, Samples
from edgeloop_hub.samples import ingest
from hubs import running_hub
from serving import eventually, serving, write_config

RNG = np.random.default_rng(0)
CAMERA = TensorProto.UINT8


def model(path: Path) -> Path:
    """Which of both is louder: the picture (8, 8, 3) or the sound (64, 2)."""
    nodes = [
        helper.make_node("Cast", ["picture"], ["p"], to=F), helper.make_node("ReduceMean", ["p"], ["bright"], axes=[1, 2], keepdims=0),
        helper.make_node("ReduceMean", ["sound"], ["loud"], axes=[1], keepdims=0),
        helper.make_node("Concat", ["bright", "loud"], ["both"], axis=1), helper.make_node("MatMul", ["both", "w"], ["scores"]),
    ]  # fmt: skip
    weights = np.array([[0.02, 0], [0.02, 0], [0.02, 0], [0, 2], [0, 2]], np.float32)
    given = [("picture", CAMERA, ["n", 8, 8, 3]), ("sound", F, ["n", 64, 2])]
    path.write_bytes(onnx_file(nodes, given, [("scores", F, ["n", 2])], w=weights))
    return path


def recordings(folder: Path, count: int, louder: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture = RNG.integers(20, 60, (8, 8, 3)).astype(np.uint8)
        np.savez(
            folder / f"{i:03}.npz", picture=picture, sound=RNG.normal(RNG.normal(0.5, 0.3) + louder, 0.5, (64, 2)).astype("f4")
        )


@pytest.mark.parametrize("labels", [["--labels", "picture,sound"], []], ids=["classes", "tensors"])
def test_a_reference_of_several_inputs_is_packed_and_watched(labels: list[str], tmp_path: Path) -> None:
    """With classes, and without a declared meaning."""
    recordings(tmp_path / "usual", 240)
    bundle = tmp_path / "two.edgeloop"
    done = edgeloop_here(
        "pack", model(tmp_path / "two.onnx"), "--out", bundle, *labels, *(["--scores", "logits"] if labels else []),
        "--samples", tmp_path / "usual",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Bundle.open(bundle) as opened:
        reference = opened.manifest.drift
    assert reference is not None and reference.samples == 240
    assert "picture: mean of channel 2" in reference.features and "sound: roughness of channel 1" in reference.features
    assert reference.features[-1] == ("confidence" if labels else "spread of scores")
    text = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n[runtime]\nvariant = "onnx-float32"\n'
    with serving(tmp_path, text, bundle) as agent:
        recordings(tmp_path / "in", 60)
        eventually(lambda: len(agent.lines) == 60)
        assert agent.metric("edgeloop_agent_drift_alarms_total") == 0 and agent.metric("edgeloop_agent_drift_score") > 0
        recordings(tmp_path / "next", 60, louder=1.0)
        for path in (tmp_path / "next").iterdir():
            path.rename(tmp_path / "in" / f"loud-{path.name}")
        eventually(lambda: agent.metric("edgeloop_agent_drift_alarms_total") >= 1)
        said = next(line for line in agent.log.splitlines() if " drift " in line)
    assert "sound: mean of channel" in said and "picture: " not in said


@pytest.mark.long
def test_samples_of_several_inputs_are_sent_seen_labelled_and_exported(tmp_path: Path) -> None:
    recordings(tmp_path / "usual", 240)
    bundle = tmp_path / "two.edgeloop"
    words = ("--labels", "picture,sound", "--scores", "logits", "--samples", tmp_path / "usual")
    assert edgeloop_here("pack", model(tmp_path / "two.onnx"), "--out", bundle, *words).returncode == 0
    with running_hub(tmp_path / "hub") as hub:
        bare = tmp_path / "bare.edgeloop"
        assert edgeloop_here("pack", tmp_path / "two.onnx", "--out", bare).returncode == 0
        for path, said in ((bare, True), (bundle, False)):
            done = command("edgeloop", "publish", path, cwd=hub.folder, EDGELOOP_HUB=hub.address, EDGELOOP_HUB_TOKEN=hub.token)
            assert done.returncode == 0 and ("devices check its structure only" in done.stderr) == said
        text = settings(hub, 'send = "samples"\nrandom_share = 1.0\ndrop_channels = [1]')
        text += '[runtime]\nvariant = "onnx-float32"\n'
        folder = tmp_path / "device"
        (folder / "in").mkdir(parents=True)
        hub.enrol(write_config(folder, text, bundle), "two-eyes")
        with serving(folder, text, bundle) as agent:
            recordings(folder / "in", 12)
            eventually(lambda: len(agent.lines) == 12)
            eventually(lambda: len(hub.get("/api/v1/samples")) == 12)
        first = hub.get("/api/v1/queue?model=two")[0]
        found = np.load(io.BytesIO(hub.http.get_bytes(f"/api/v1/samples/two-eyes/{first['key']}/values")))
        assert found["picture"].shape == (8, 8, 3) and found["picture"].dtype == np.uint8 and found["sound"].shape == (64, 2)
        assert found["picture"][..., 0].any() and not found["picture"][..., 1].any() and not found["sound"][..., 1].any()
        shown = hub.signed_in("anna")("/queue")
        assert "<h2>picture</h2>" in shown and "<h2>sound</h2>" in shown and shown.count("<polyline") == 2
        assert 'picture.png?input=picture"' in shown
        said = hub.edgeloop("labels", "export", tmp_path / "out", "--model", "two")
        assert "the model has several inputs: the list names the files of picture; those of sound lie beside them" in said
        assert (
            len(list((tmp_path / "out" / "media").glob("*.png"))) == len(list((tmp_path / "out" / "media").glob("*.sound.csv"))) > 0
        )
        hub.post("/api/v1/labels", {"labels": [{"device": "two-eyes", "key": first["key"], "label": "sound"}]})
        (stored, *_) = hub.packed("/api/v1/labelled?model=two")
        assert stored["input"] == "picture" and [other["name"] for other in stored["others"]] == ["sound"]


def sample(**changed: object) -> Sample:
    row = packed(np.arange(6, dtype=np.float32).reshape(3, 2), 1)
    fields = {
        "key": "a" * 16, "at": 1.0, "kind": "random", "model": "m", "sha256": "0" * 64, "recording": "r", "dtype": "float32",
        "shape": [3, 2], "data": row, "input": "a", "others": [NamedArray(name="b", dtype="int64", shape=[2], data=packed(np.ones(2, "i8"), 1))],
    }  # fmt: skip
    return Sample(**(fields | changed))  # type: ignore[arg-type]


def test_rules_that_became_stricter_hold_for_every_input() -> None:
    again = redacted_again(sample(), Settings(drop_channels=[1]))
    assert [json.loads(json.dumps(values.tolist())) for values in map(array, again.inputs)] == [[[0, 0], [2, 0], [4, 0]], [1, 0]]


def array(part: NamedArray) -> np.ndarray:
    import zlib

    return np.frombuffer(zlib.decompress(part.data), part.dtype).reshape(part.shape)


@pytest.mark.parametrize(
    ("others", "why"),
    [
        ([NamedArray(name="a", shape=[1], data=packed(np.zeros(1, "u1"), 1))], "have one name"),
        ([NamedArray(name="", shape=[1], data=packed(np.zeros(1, "u1"), 1))], "one has none"),
        ([NamedArray(name="b", shape=[], data=b"")], "no shape"),
        ([NamedArray(name="b", shape=[9], data=packed(np.zeros(8, "u1"), 1))], "are not"),
        ([NamedArray(name="b", shape=[1], data=packed(np.zeros(1 << 24, "u1"), 9))], "are not"),
        ([NamedArray(name="b", dtype="float64", shape=[1], data=packed(np.array([np.nan]), 1))], "not finite"),
        ([NamedArray(name=f"b{i}", shape=[1 << 16, 20], data=b"") for i in range(15)], "unpacked; the limit"),
        ([NamedArray(name="b", shape=[1], data=b"noise")], "damaged"),
    ],
)
def test_what_a_device_says_of_its_inputs_is_checked(others: list[NamedArray], why: str) -> None:
    ingest.check(sample())
    with pytest.raises(DataError, match=why):
        ingest.check_all(Samples(samples=[sample(others=others)]))
