"""A bundle of which not every file runs here, or which this agent is too old for: the others serve, and nothing is bad for good."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest

from commands import command, sentence
from edgeloop_agent import device_state
from edgeloop_agent.logs import Log
from edgeloop_agent.metrics import Counts
from edgeloop_agent.models import Models
from edgeloop_agent.updates import taking as turns
from edgeloop_agent.updates.switcher import UpdateWatcher
from edgeloop_contract.archive import Bundle, describe, write
from edgeloop_contract.bench_report import VariantChoice
from edgeloop_contract.errors import BundleTooNew
from serving import GOLDEN, RECORDING, serving
from update_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def spoiled(folder: Path, files: dict[str, bytes]) -> Path:
    """The golden bundle with other model files, by variant."""
    with Bundle.open(GOLDEN) as golden:
        contents = {name: golden.read(name) for name in golden.manifest.files}
        contents |= {golden.manifest.variant(name).file: data for name, data in files.items()}
        manifest = msgspec.structs.replace(golden.manifest, files=describe(contents))
        write(folder / "spoiled.edgeloop", manifest, contents)
    return folder / "spoiled.edgeloop"


def of_two_inputs() -> bytes:
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("motion", "sound", "scores")]
    made = helper.make_graph([helper.make_node("Add", ["motion", "sound"], ["scores"])], "two", ends[:2], ends[2:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def of_another_shape() -> bytes:
    """It loads, and raises when it runs."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.INT16, [1, 4]) for n in ("motion", "scores")]
    made = helper.make_graph([helper.make_node("Identity", ["motion"], ["scores"])], "other", ends[:1], ends[1:])
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


def test_a_variant_that_raises_while_measured_does_not_run_here_and_the_others_serve(tmp_path: Path) -> None:
    bundle = spoiled(tmp_path, {"onnx-int8": of_another_shape(), "onnx-float32": b"no model", "tflite-float32": b"no model"})
    shown = command("edgeloop-agent", "bench", bundle, "--seconds", "0.05", "--state", tmp_path / "s")
    assert shown.returncode == 0 and "fastest: tflite-int8" in shown.stdout, shown.stderr
    assert "does not run here (InvalidArgument" in shown.stdout and shown.stdout.count("refuses") == 2
    done = command("edgeloop-agent", "run", bundle, "--source", RECORDING, "--state", tmp_path / "fresh")
    assert done.returncode == 0 and "48 samples answered" in done.stderr
    with serving(tmp_path, "[runtime]\nmeasure_seconds = 0.05\n", bundle) as agent:
        assert 'variant="tflite-int8"' in agent.get("/metrics")
    assert command("edgeloop-agent", "check", tmp_path / "agent.toml").returncode == 0


def test_a_variant_that_was_chosen_and_does_not_load_any_more_gives_way(tmp_path: Path) -> None:
    bundle = spoiled(tmp_path, {"onnx-int8": b"no model"})
    with Bundle.open(bundle) as opened:
        device_state.remember_choice(tmp_path / "state", opened, VariantChoice("onnx-int8", 1, "it was the fastest"))
    with serving(tmp_path, '[source]\nkind = "file"\nwhere = "a.csv"\n[runtime]\nvariant = ""\n', bundle) as agent:
        assert "variant does not run here" in agent.log
    asked = tmp_path / "agent.toml"
    asked.write_text(asked.read_text().replace('variant = ""', 'variant = "onnx-int8"'))
    assert "refuses" in sentence(command("edgeloop-agent", "check", asked), 6)


@pytest.mark.parametrize("command_of", ["bench", "run", "check"])
def test_models_of_several_inputs_are_refused_when_they_are_loaded(command_of: str, tmp_path: Path) -> None:
    bundle = spoiled(tmp_path, {name: of_two_inputs() for name in ("onnx-int8", "onnx-float32")})
    said = "takes 2 inputs (motion, sound), the manifest describes one"
    if command_of == "check":
        (tmp_path / "agent.toml").write_text(f'bundles = ["{bundle}"]\nstate = "s"\n[runtime]\nvariant = "onnx-int8"\n')
        assert said in sentence(command("edgeloop-agent", "check", tmp_path / "agent.toml"), 6)
    elif command_of == "run":
        done = command("edgeloop-agent", "run", bundle, "--source", RECORDING, "--variant", "onnx-int8", "--state", tmp_path / "s")
        assert said in sentence(done, 6)
    else:
        shown = command("edgeloop-agent", "bench", bundle, "--seconds", "0.05", "--state", tmp_path / "s")
        assert shown.returncode == 0 and shown.stdout.count(said) == 2


def test_a_bundle_of_a_later_format_waits_for_a_later_agent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer(2)
    bench.repository.publish()
    plain = Bundle.open

    def too_new(path: Path, *more: object, **options: object) -> Bundle:
        if path.name.startswith("slot-"):
            raise BundleTooNew(f"{path}: has a field of a later release; update edgeloop")
        return plain(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Bundle, "open", too_new)
    assert "update the agent on this device, then it is tried again" in bench.turn()
    assert [e.kind for e in bench.folder.load().events] == ["refused"] and bench.running().version == 1
    assert bench.turn() == "no target is assigned"  # nor fetched again and again
    monkeypatch.setattr(Bundle, "open", plain)
    monkeypatch.setattr(turns, "version", lambda name: "99.0")
    assert bench.turn() == "exercise_watch-2.edgeloop is staged" and bench.running().version == 2


def test_an_older_agent_does_not_take_a_newer_bundle_for_damaged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer(2)
    bench.repository.publish()
    bench.turn()
    bench.taken()
    plain = Bundle.open

    def too_new(path: Path, *more: object, **options: object) -> Bundle:
        if path.name.startswith("slot-"):
            raise BundleTooNew(f"{path}: update edgeloop")
        return plain(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Bundle, "open", too_new)
    assert bench.running().version == 1
    monkeypatch.setattr(Bundle, "open", plain)
    assert bench.running().version == 2


def test_what_failed_here_may_be_right_for_another_runtime(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.offer(2)
    bench.repository.publish()
    assert "did not pass" in bench.turn(lambda _: "onnxruntime refuses it")
    assert bench.turn() == "no target is assigned"
    monkeypatch.setattr(turns, "version", lambda name: "99.0")
    assert "is staged" in bench.turn()
    bench.folder.change(lambda j: j.rolled_back("it crashed"))
    monkeypatch.setattr(turns, "version", lambda name: "100.0")
    assert bench.turn() == "no target is assigned"  # what failed at work stays away


def test_a_process_older_than_its_updater_waits_for_its_restart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    models = Models(bench.config, Counts(), Log("error"))
    models.get(models.first)
    watch = UpdateWatcher(bench.config, Path("agent.toml"), models, Counts(), Log("info", stream))
    bench.offer(2)
    bench.repository.publish()
    bench.turn()

    def too_new(name: str, path: Path, *_: object) -> None:
        raise BundleTooNew(f"{path}: has a field of a later release; update edgeloop")

    monkeypatch.setattr(models, "replace", too_new)
    assert not watch.trials[0]._switch() and "update waits for a restart of the agent" in stream.getvalue()
    journal = bench.folder.load()
    assert journal.trial is not None and not journal.bad
    monkeypatch.undo()
    assert bench.running().version == 2
