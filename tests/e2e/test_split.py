"""Work split between device and server: the bundle, tails on the hub, deadlines, the cascade; through the commands."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from commands import TINY, command
from edgeloop_agent import config
from edgeloop_agent.answers import softmax
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.offload.router import FULL_RUN_EVERY, Router
from edgeloop_agent.offload.tail_servers import TailServers
from edgeloop_agent.runtimes.onnx import session_of
from edgeloop_contract.archive import Bundle
from edgeloop_exporters import cutting
from hubs import Hub
from matrix import cases
from offloading import canary, device, infer
from serving import eventually


def test_the_bundle_knows_its_cuts_and_each_part_fits(built: dict[str, Path]) -> None:
    with Bundle.open(built["small"]) as bundle:
        split, cascade = bundle.manifest.split, bundle.manifest.cascade
        assert split is not None
        assert cascade is not None
        whole = bundle.read(bundle.manifest.variant(split.variant).file)
        x = bundle.array(bundle.manifest.canary.input)
        assert split.cuts[0].name == "input"
        assert len(split.cuts) > 1
        sizes = [cut.packed[0].bytes for cut in split.cuts if not cut.decoder]
        assert sizes == sorted(sizes, reverse=True)
        scores = session_of(whole).run(None, {"input": x})[0]
        for cut in split.cuts[1:]:
            crossing = session_of(bundle.read(cut.file)).run(None, {"input": x})[0]
            assert (str(crossing.dtype), list(crossing.shape[1:])) == (cut.boundary.dtype, cut.boundary.shape)
            decoder = bundle.read(cut.decoder) if cut.decoder else b""
            again = session_of(cutting.tail(whole, cut.tensor, decoder)).run(None, {cut.tensor: crossing})[0]
            if decoder:
                assert cut.packed[0].bytes < split.cut(cut.name.removesuffix("-narrow")).packed[0].bytes
                assert (again.argmax(1) == scores.argmax(1)).mean() > 0.6
            else:
                assert (again == scores).all()
        assert next(cut.name for cut in split.cuts if cut.decoder) == "cut-1-narrow"
    with Bundle.open(built["large"]) as large:
        assert (cascade.model, cascade.sha256) == (large.manifest.name, large.sha256)
        assert 0 <= cascade.share <= 0.5
        assert cascade.accuracy >= cascade.small


# ---------------------------------------------------------------- tails on a real hub


# ---------------------------------------------------------------- a real agent


@pytest.mark.parametrize("way", cases(("input", "cut-1", "cut-2", "device"), ("input", "cut-1")))
def test_the_answer_is_the_same_wherever_it_is_computed(hub: Hub, built: dict[str, Path], tmp_path: Path, way: str) -> None:
    x, scores = canary(built["small"])
    with device(tmp_path, hub, built["small"], f'route = "{way}"\ncascade = false\ndeadline_ms = 5000') as agent:
        eventually(lambda: infer(agent, x[:1])[1].startswith(way))
        found, place = infer(agent, x)
        assert (found == scores).all(), "bit for bit"
        assert place.startswith(way)
        assert f'edgeloop_agent_answers_total{{place="{way}' in agent.get("/metrics")
        port = agent.address.rsplit(":", 1)[1]
        explained = command("edgeloop-agent", "explain", tmp_path / "agent.toml", "--port", port)
        assert explained.returncode == 0, explained.stderr
        assert way in explained.stdout.splitlines()[0]
        assert "not asked for" in explained.stdout


def test_explorations_give_way_to_requests_and_neither_is_learned_from(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(hub.token)
    (tmp_path / "agent.toml").write_text(
        f'bundles = ["{built["small"]}"]\nstate = "state"\n[api]\nport = 1\n[split]\nenabled = true\nexits = false\ncascade = false\nroute = "input/raw"\n'
        f'deadline_ms = 9000\nmax_bytes_per_day = 9000000\n[[split.tails]]\naddress = "{hub.address}"\ntoken_file = "token"\n'
    )
    servers = TailServers(config.load(tmp_path / "agent.toml"), "", Counts(), Log())
    with Bundle.open(built["small"]) as bundle:
        assert bundle.manifest.split is not None
        session = session_of(bundle.read(bundle.manifest.variant(bundle.manifest.split.variant).file))
        router = Router(servers, bundle, lambda sample: session.run(None, {"input": sample})[0])
    router.measure()
    tail, done, x = servers.tails[0], threading.Event(), canary(built["small"])[0][:1]

    def known() -> tuple[float, float | None, float | None]:
        return servers.bytes_left(), tail.link.round_trip, tail.link.rate

    tail.link.observe_probe(tail.probe())
    before = known()
    request = servers.submit(tail, done.wait)
    assert request is not None
    router.explore(0)
    assert known() == before, "a request has the link: not a byte of exploration"
    done.set()
    request.result(9)
    eventually(lambda: not servers.busy(0))
    router.explore(0)
    explored = known()
    assert explored[0] < before[0]
    assert explored[2] is not None
    router.replan_now()
    tail.exploring = True  # as if another model's exploration were on its way
    assert router.scored(x).place == f"input/raw@{tail.address}"
    beside = known()
    assert beside[0] < explored[0]
    assert beside[1:] == explored[1:], "what shared the link says nothing of it"
    tail.exploring = False
    assert router.scored(x).place == f"input/raw@{tail.address}"
    assert known()[1:] != explored[1:]


def test_a_learned_bottleneck_serves_where_it_is_allowed(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    for more, way in (
        ('route = "cut-1-narrow"\nsend = "boundary"', "cut-1-narrow"),
        ('route = "cut-1"\nmin_agreement = 0.5', "cut-1/"),
    ):
        with device(tmp_path / way.strip("/"), hub, built["small"], f"{more}\ncascade = false\ndeadline_ms = 5000") as agent:
            eventually(lambda agent=agent, way=way: infer(agent, x[:1])[1].startswith(way))
            found, _ = infer(agent, x)
            assert (found.argmax(1) == scores.argmax(1)).mean() > 0.6


def test_sure_samples_are_answered_early(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    x, scores = canary(built["small"])
    with Bundle.open(built["small"]) as bundle:
        assert bundle.manifest.split is not None
        cut = next(cut for cut in bundle.manifest.split.cuts if cut.exit)
        assert cut.exit is not None
        assert cut.exit.share <= 0.9
        assert cut.exit.accuracy >= cut.exit.whole - 0.3
        early = session_of(bundle.read(cut.file)).run(None, {"input": x})[1]
    sure = softmax(early).max(axis=1) >= cut.exit.threshold
    sure[::FULL_RUN_EVERY] = False  # these go through the whole network in any case
    assert sure.any()
    for way, elsewhere in ((f"{cut.name}/raw", f"{cut.name}/raw@"), (f"{cut.name}/here", "device")):
        more = f'route = "{way}"\nexits = true\ncascade = false\ndeadline_ms = 5000'
        with device(tmp_path / way, hub, built["small"], more) as agent:
            eventually(lambda agent=agent, way=way: json.loads(agent.get("/split"))[0]["route"] == way)
            for i in range(len(x)):
                found, place = infer(agent, x[i : i + 1])
                assert np.allclose(found[0], early[i] if sure[i] else scores[i], atol=1e-5)
                assert place.startswith(f"exit {cut.name}" if sure[i] else elsewhere)


def test_every_output_line_says_where_it_comes_from(hub: Hub, built: dict[str, Path], tmp_path: Path) -> None:
    source = '[source]\nkind = "watch"\nwhere = "in"\npoll_seconds = 0.1\n'
    (tmp_path / "in").mkdir()
    samples = command("edgeloop", "samples", TINY, tmp_path / "samples", "--limit", 3)
    assert samples.returncode == 0, samples.stderr
    with device(tmp_path, hub, built["small"], 'route = "cut-1"\ncascade = false\ndeadline_ms = 5000', source) as agent:
        eventually(lambda: infer(agent, canary(built["small"])[0][:1])[1].startswith("cut-1"))
        for path in sorted((tmp_path / "samples").iterdir()):
            shutil.copy(path, tmp_path / "in" / f".{path.name}")
            (tmp_path / "in" / f".{path.name}").rename(tmp_path / "in" / path.name)
        lines = eventually(lambda: len(agent.lines) >= 3 and agent.lines)
        assert all(line["place"].startswith("cut-1/") and line["place"].endswith(hub.address) for line in lines if "label" in line)
