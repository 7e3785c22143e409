"""An agent with several bundles, of which some cannot be served: the others are, and it is said which is not."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from commands import command
from edgeloop_agent import device_state
from edgeloop_agent.config import Api, Config, Updates
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import BundleError, DeviceError
from serving import GOLDEN, serving, write_config
from spoiled import rebuilt


def damaged(folder: Path) -> Path:
    path = folder / "damaged.edgeloop"
    path.write_bytes(GOLDEN.read_bytes()[:-40])
    return path


def later(folder: Path) -> Path:
    return rebuilt(folder / "later.edgeloop", lambda manifest, files: manifest["preprocessing"][0].update(surprise=3))


def missing(folder: Path) -> Path:
    return folder / "missing.edgeloop"


def models_of(tmp_path: Path, *bundles: Path, said: io.StringIO | None = None, **changes: Any) -> Models:
    config = Config(bundles=[str(path) for path in bundles], state=str(tmp_path / "state"), **changes)
    return Models(config, Counts(), Log("info", said or io.StringIO()))


@pytest.mark.parametrize("spoil", [damaged, later, missing])
@pytest.mark.parametrize("order", [1, -1])
def test_one_wrong_bundle_among_several_is_refused_by_name_and_the_others_serve(tmp_path: Path, spoil: Any, order: int) -> None:
    wrong, said = spoil(tmp_path), io.StringIO()
    models = models_of(tmp_path, *[wrong, GOLDEN][::order], said=said)
    assert list(models.paths.values()) == [GOLDEN] and list(models.refused) == [wrong]
    assert models.answers_source == (order == -1)  # no other one answers in the first one's place
    assert models.counts.bundles_refused == 1 and said.getvalue().count("bundle refused") == 1 and str(wrong) in said.getvalue()


def test_the_bundle_that_updates_and_the_source_go_by_is_not_done_without(tmp_path: Path) -> None:
    wrong = damaged(tmp_path)
    for changes in ({"api": Api(enabled=False)}, {"updates": Updates(hub="http://127.0.0.1:1")}):
        with pytest.raises(BundleError, match=r"damaged\.edgeloop"):
            models_of(tmp_path, wrong, GOLDEN, **changes)
        assert models_of(tmp_path, GOLDEN, wrong, **changes).answers_source
    with pytest.raises(BundleError, match=r"damaged\.edgeloop"):
        models_of(tmp_path, wrong, tmp_path / "missing.edgeloop")


def test_a_bundle_whose_variants_do_not_run_here_is_refused_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Bundle.open(GOLDEN) as bundle:
        runtimes = {variant.runtime for variant in bundle.manifest.variants}
    monkeypatch.setattr(device_state, "available", lambda *_: {"another": "1.0"})
    with pytest.raises(DeviceError, match="needs a runtime for") as refused:
        models_of(tmp_path, GOLDEN)
    assert all(runtime in str(refused.value) for runtime in runtimes)


def test_check_and_the_api_name_what_is_refused(tmp_path: Path) -> None:
    wrong = damaged(tmp_path)
    done = command("edgeloop-agent", "check", write_config(tmp_path, "", GOLDEN, wrong))
    assert done.returncode == 5 and f"bundle {wrong}: refused" in done.stdout and "model exercise_watch" in done.stdout
    with serving(tmp_path, "", GOLDEN, wrong) as agent:
        with urllib.request.urlopen(f"{agent.address}/v2/repository/index", data=b"", timeout=10) as answer:
            assert [row["state"] for row in json.load(answer)] == ["READY", "UNAVAILABLE"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            agent.get("/v2/models/damaged")
        assert "damaged.edgeloop" in refused.value.read().decode() and agent.metric("edgeloop_agent_bundles_refused") == 1
