"""Boxes with points through the front door: COCO keypoints to a bundle, and the agent's answers in pixels of the pictures."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

import edgeloop
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.canary_consistency import canary_problems
from edgeloop_contract.consistency import problems
from pointed import POINTS, Worm, pointed, project
from serving import serving

pytestmark = pytest.mark.long  # it trains; several labels and segmentation take the same way in the short suite


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, dict[str, list[Worm]], Path]:
    """The run's summary, the bundle, and new pictures: their worms by name, and their folder."""
    root = tmp_path_factory.mktemp("points")
    done = edgeloop_here("run", project(root, 80), "--runs", root / "runs", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found, Path(found["bundle"]), pointed(root / "new", 8, seed=9), root / "new" / "images"


def test_the_run_judges_both_int8_files_by_oks(built: tuple) -> None:
    found, bundle, _, _ = built
    verified = next(s["metrics"] for s in found["stages"] if s["name"] == "verify")
    assert verified["metric"] == "OKS mAP" and [row["point"] for row in verified["points"]["points"]] == list(POINTS)
    assert all(v["accuracy"] > 0.1 for v in found["variants"]) and verified["points"]["box_map_half"] > 0.5
    assert all(row["off"] < 0.2 and row["near"] > 0.4 for row in verified["points"]["points"])
    with Bundle.open(bundle) as opened:
        manifest, labels = opened.manifest, opened.array("canary/labels.npy")
    assert manifest.schema == 3 and "task keypoints" in manifest.requires and manifest.task.points == list(POINTS)
    assert labels.shape[2] == 11 and manifest.drift.features[-6:-1][0] == "log boxes"
    assert "Each box has 2 points: head, tail" in manifest.model_card
    page = Path(found["report"]).read_text()
    assert "<h2>Points</h2>" in page and "OKS mAP@0.5" in page and page.count("data:image/jpeg") == 8


@pytest.mark.parametrize("variant", ["onnx-int8", "tflite-int8"])
def test_points_are_in_pixels_of_the_picture_that_was_given(built: tuple, variant: str, tmp_path: Path) -> None:
    model = edgeloop.open(built[1], variant=variant, state=tmp_path)
    offs = {1: [], 3: []}
    for name, worms in built[2].items():
        with Image.open(built[3] / name) as picture:
            for wide in offs:
                answer = model(np.asarray(picture.resize((wide * picture.width, picture.height))))
                for worm in worms:
                    near = [b for b in answer.boxes if abs(sum(b.box[::2]) / 2 / wide - sum(worm.box[::2]) / 2) < 8]
                    if near:
                        assert [point.label for point in near[0].points] == list(POINTS)
                        ends = np.array([point.point for point in near[0].points]) / [wide, 1]
                        offs[wide].append(np.hypot(*(ends - [worm.head, worm.tail]).T).mean())
    assert all(len(off) >= 5 and np.median(off) < 6 for off in offs.values()), offs


def test_the_agent_draws_points_and_the_api_answers_them(built: tuple, tmp_path: Path) -> None:
    words = ("run", built[1], "--source", built[3], "--state", tmp_path / "state", "--draw", tmp_path / "drawn")
    done = command("edgeloop-agent", *words)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    boxes = [box for line in lines for box in line["boxes"]]
    assert boxes and all(set(box) == {"label", "score", "box", "points"} for box in boxes)
    assert all(set(point) == {"label", "score", "point"} for box in boxes for point in box["points"])
    plain = [replace(edgeloop.Box("worm", 0.9, [20.0, 20.0, 60.0, 60.0]), points=points) for points in (
        None, [edgeloop.Point("head", 0.9, [40.0, 40.0]), edgeloop.Point("tail", 0.1, [30.0, 30.0])])]  # fmt: skip
    bare, dotted = (np.asarray(edgeloop.draw(np.zeros((96, 128, 3), np.uint8), [box])) for box in plain)
    assert (dotted != bare)[38:43, 38:43].any() and not (dotted != bare)[28:33, 28:33].any()
    assert len(list((tmp_path / "drawn").iterdir())) == len(lines)
    with Bundle.open(built[1]) as bundle:
        sample = bundle.array(bundle.manifest.canary.input)[:1]
    tensor = {"name": "input", "shape": list(sample.shape), "datatype": "UINT8", "data": sample.ravel().tolist()}
    with serving(tmp_path, "[runtime]\nthreads = 1\n", built[1]) as agent:
        body = json.dumps({"inputs": [tensor], "parameters": {"boxes": True}}).encode()
        answer = json.load(urlopen(Request(f"{agent.address}/v2/models/worms/infer", body)))
    assert {o["name"] for o in answer["outputs"]} == {"boxes", "scores", "points"}
    assert all(len(box["points"]) == 2 for box in answer["parameters"]["boxes"][0])


def test_canary_and_bundle_rules_know_points(built: tuple, tmp_path: Path) -> None:
    from edgeloop_agent.updates import canary

    (tmp_path / "agent.toml").write_text(f'bundles = ["{built[1]}"]\nstate = "{tmp_path / "state"}"\n[source]\nkind = "none"\n')
    outcome = canary.check(tmp_path / "agent.toml", built[1])
    assert outcome.samples == 8 and outcome.right > 3
    with Bundle.open(built[1]) as bundle:
        manifest = bundle.manifest
        arrays = {name: bundle.array(name) for name in manifest.files if name.endswith(".npy")}
    assert not problems(manifest) and not canary_problems(manifest, arrays.__getitem__)
    more = replace(manifest, task=replace(manifest.task, points=["a", "b", "c"]))
    assert any("60 cells of 3 points are needed" in why for why in problems(more))
    lost = replace(manifest, task=replace(manifest.task, points_output="other"))
    assert any("points need the output 'other'" in why for why in problems(lost))
    cut = {**arrays, "canary/labels.npy": arrays["canary/labels.npy"][..., :5]}
    (why,) = canary_problems(manifest, cut.__getitem__)
    assert "with x, y and 0 or 1 for each point" in why


REFUSED = {
    "a network without points": ("network_args={width: small}", 4, "returns boxes, scores, without points"),
    "other points": ("network_args={width: small, points: 3}", 4, "'points': (1, cells, 6)"),
    "mixup": ("train.mixup=0.2", 4, "mixup: does not suit keypoints"),
    "label smoothing": ("train.label_smoothing=0.1", 4, "label_smoothing: is for classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_suit_is_one_sentence(name: str, tmp_path: Path) -> None:
    change, code, why = REFUSED[name]
    done = edgeloop_here("run", project(tmp_path, 12), "--runs", tmp_path / "runs", "--set=train.epochs=1", "--set", change)
    assert why in sentence(done, code)
