"""A hub with samples that real devices sent, of models of boxes, masks, values and several labels; and people who annotate them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotated_models import BOXES, HEIGHT, MODELS, WIDTH
from edgeloop_contract.sample_messages import SampleAnnotations
from hubs import Hub, running_hub
from serving import eventually, serving, write_config

PICTURES = 10
CAT, DOG = (list(BOXES[label][0]) for label in ("cat", "dog"))


@contextmanager
def annotated_hub(folder: Path) -> Iterator[Hub]:
    """PICTURES samples of each model, each from its own device; two people must agree."""
    with running_hub(folder, serve=("--set", "labels_needed=2")) as hub, ExitStack() as agents:
        for part, make in MODELS.items():
            bundle = make(folder / f"{part}-1.edgeloop")
            hub.publish(bundle)
            device = folder / part
            (device / "in").mkdir(parents=True)
            text = (
                '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n[runtime]\nthreads = 1\n'
                f'[updates]\nhub = "{hub.address}"\npoll_seconds = 0.3\n'
                '[samples]\nsend = "samples"\nrandom_share = 1.0\n'
            )
            hub.enrol(write_config(device, text, bundle), f"pi-{part}")
            for i in range(PICTURES):
                picture = np.full((HEIGHT, WIDTH, 3), 6 * i, np.uint8)
                picture[10:20, 10:30] = 255, 6 * i, 6 * i
                Image.fromarray(picture).save(device / "in" / f"{i}.png")
            agents.enter_context(serving(device, text, bundle))
        eventually(lambda: len(hub.get("/api/v1/samples")) == len(MODELS) * PICTURES)
        agents.close()
        yield hub


def known(hub: Hub, sample: dict[str, Any]) -> SampleAnnotations:
    return hub.http.get(f"/api/v1/samples/{sample['device']}/{sample['key']}/annotations", SampleAnnotations)


def open_samples(hub: Hub, part: str) -> list[dict[str, Any]]:
    return list(hub.get(f"/api/v1/queue?model={part}-1&who=nobody"))


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the page's form."""
    found = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.partition('class="annotate"')[2]))
    return {name: html.unescape(value) for name, value in found.items()}


def say(hub: Hub, sample: dict[str, Any], who: str, annotation: object) -> int:
    """Over the HTTP interface; how many samples it settled."""
    one = {"device": sample["device"], "key": sample["key"], "annotation": annotation}
    return int(hub.post("/api/v1/labels", {"who": who, "labels": [one]})["settled"])


def settle(hub: Hub, sample: dict[str, Any], annotation: object) -> None:
    assert sum(say(hub, sample, who, annotation) for who in ("eva", "max")), "two people agree"


def boxes(*given: tuple[str, list[float]]) -> dict[str, Any]:
    return {"boxes": [{"label": label, "box": box} for label, box in given]}


def corrected(folder: Path, kind: str) -> Path:
    """What a person makes of an export: the file to import."""
    if kind == "yolo":  # the model's predictions without their scores are the labels
        (folder / "labels").mkdir(exist_ok=True)
        for path in (folder / "predictions").glob("*.txt"):
            rows = [line.split()[:5] for line in path.read_text().splitlines()]
            (folder / "labels" / path.name).write_text("".join(f"{' '.join(row)}\n" for row in rows))
        return folder
    if kind == "csv":
        text = (folder / "labels.csv").read_text()
        (folder / "labels.csv").write_text(text.replace(",prediction,", ",labelled,"))
        return folder / "labels.csv"
    if kind == "coco":
        found = json.loads((folder / "coco-predictions.json").read_text())
        for annotation in found["annotations"]:
            annotation.pop("score", None)
        (folder / "coco.json").write_text(json.dumps(found))
        return folder / "coco.json"
    tasks = json.loads((folder / "label-studio.json").read_text())
    for task in tasks:
        task["annotations"] = [{"result": [{k: v for k, v in r.items() if k != "score"} for r in task["predictions"][0]["result"]]}]
    (folder / "label-studio.json").write_text(json.dumps(tasks))
    return folder / "label-studio.json"
