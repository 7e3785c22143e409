"""A bundle with cuts and a cascade, a hub that serves its tails, and devices that use them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from commands import TINY, command
from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract import inference
from edgeloop_contract.archive import Bundle
from edgeloop_contract.arrays import Array
from edgeloop_contract.manifest import Split
from edgeloop_contract.splitting import served_name
from hubs import Hub, running_hub
from serving import Agent, serving, write_config


@pytest.fixture(scope="session")
def built(tiny_run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny project with cuts and a cascade: its bundle, and the large one."""
    folder = tmp_path_factory.mktemp("split")
    runs = Path(shutil.copytree(tiny_run["runs"], folder / "runs"))
    changes = (
        "--set",
        "split.max_cuts=3",
        "--set",
        "split.four_bits=true",
        "--set",
        "split.bottleneck=0.5",
        "--set",
        "split.bottleneck_steps=20",
        "--set",
        "split.exits=0.3",
        "--set",
        "split.seconds=0.02",
        "--set",
        "cascade.max_share=0.5",
    )
    done = command("edgeloop", "run", TINY, "--runs", runs, *changes)
    assert done.returncode == 0, done.stderr
    paths = {line.split(": ")[0]: Path(line.split(": ")[1]) for line in done.stdout.splitlines() if "bundle: " in line}
    return {"small": paths["bundle"], "large": paths["large bundle"]}


@pytest.fixture(scope="module")
def hub(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub"), serve=("--set", "tail_burst=2000", "--set", "tail_batch=8")) as found:
        found.publish(built["small"])
        found.publish(built["large"])
        yield found


def first_cut(path: Path) -> tuple[Split, str, Array, Array]:
    """The split, the name of its first inner tail, boundaries of the canary, and the scores that belong to them."""
    with Bundle.open(path) as bundle:
        split = bundle.manifest.split
        assert split is not None
        x = bundle.array(bundle.manifest.canary.input)
        whole = bundle.read(bundle.manifest.variant(split.variant).file)
        scores = session_of(whole).run(None, {"input": x})[0]
        crossing = session_of(bundle.read(split.cuts[1].file)).run(None, {"input": x})[0]
        return split, served_name("tiny", bundle.sha256, "cut-1"), crossing, scores


def agent_text(hub: Hub, more: str, extra: str = "") -> str:
    more = more if "exits" in more else f"{more}\nexits = false"
    return (
        f'[updates]\nhub = "{hub.address}"\npoll_seconds = 1000\n[runtime]\nvariant = "onnx-int8"\nthreads = 1\n{extra}\n'
        f"[split]\nenabled = true\nprobe_seconds = 0.5\n{more}\n"
    )


def infer(agent: Agent, samples: Array) -> tuple[Array, str]:
    body, length = inference.encode_request("input", samples, {})
    answer = urllib3.request(
        "POST", f"{agent.address}/v2/models/tiny/infer", body=body, headers={inference.HEADER_LENGTH: str(length)}, timeout=20
    )
    assert answer.status == 200, answer.data
    outputs, said = inference.decode_response(answer.data, int(answer.headers[inference.HEADER_LENGTH]))
    return outputs["scores"], str(said.get("place"))


def canary(path: Path) -> tuple[Array, Array]:
    """Samples, and the scores of the variant that is cut."""
    with Bundle.open(path) as bundle:
        x = bundle.array(bundle.manifest.canary.input)
        whole = bundle.read(bundle.manifest.variant("onnx-int8").file)
        return x, session_of(whole).run(None, {"input": x})[0]


@contextmanager
def device(folder: Path, hub: Hub, bundle: Path, more: str, extra: str = "") -> Iterator[Agent]:
    text = agent_text(hub, more, extra)
    folder.mkdir(parents=True, exist_ok=True)
    hub.enrol(write_config(folder, text, bundle), f"device-{abs(hash(str(folder))) % 10**9}")
    with serving(folder, text, bundle) as agent:
        yield agent
