"""Results where a person looks: runs/NAME, edgeloop open, run --out, compare and clean."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from commands import TINY, command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_pipeline.cache.store import Store
from edgeloop_pipeline.recipe import recipe as recipes
from edgeloop_pipeline.run import kept_runs
from edgeloop_pipeline.run.comparison import ALL_DATA, compare
from edgeloop_pipeline.run.record import record_of
from edgeloop_pipeline.run.result import RunResult
from edgeloop_pipeline.run.run_log import MAX_HEAD_LINES, MAX_TAIL_LINES, RunLog
from edgeloop_pipeline.run.runner import Listener
from edgeloop_pipeline.run.runner import run as run_recipe

MODELS = {"onnx-float32.onnx", "onnx-int8.onnx", "tflite-float32.tflite", "tflite-int8.tflite"}
FILES = {"report.html", "tiny-1.edgeloop", "run.json", "log.txt", "record.json", *MODELS}


def run(runs: Path, *options: object) -> dict[str, Any]:
    done = edgeloop_here("run", TINY, "--runs", runs, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.exists()}


def record(runs: Path) -> Any:
    found = kept_runs.read_record(runs / "tiny")
    assert found is not None
    return found


def test_the_folder_of_results_leads_to_the_files_of_the_run(runs: Path, tiny_run: dict[str, Any], tmp_path: Path) -> None:
    moved = runs.rename(tmp_path / "moved")
    folder = moved / "tiny"
    assert names(folder) >= FILES
    assert (folder / "report.html").read_bytes() == Path(tiny_run["report"]).read_bytes()
    assert not any(p.readlink().is_absolute() for p in folder.iterdir() if p.is_symlink())
    assert json.loads((folder / "run.json").read_text()) == {k: v for k, v in tiny_run.items() if k != "runs"}
    log = (folder / "log.txt").read_text()
    assert "verify: done in" in log and re.search(r"^  tflite-int8 +\d+\.\d\d% .* kB .* µs$", log, re.M)
    with Bundle.open(folder / "tiny-1.edgeloop") as bundle:
        assert bundle.manifest.name == "tiny"


@pytest.mark.long
def test_a_name_that_is_taken_gets_a_folder_beside_it(runs: Path) -> None:
    answer = run(runs, "--set=name=cache", "--set=report=off")
    assert Path(answer["folder"]) == runs / "_cache"
    assert (runs / "_cache" / "cache-1.edgeloop").exists() and (runs / "cache").is_dir() and not (runs / "cache").is_symlink()
    (runs / "tiny").unlink()
    (runs / "tiny").mkdir()
    (runs / "tiny" / "recipe.yaml").write_text("mine")
    assert Path(run(runs)["folder"]) == runs / "_tiny"
    assert names(runs / "_tiny") >= FILES and names(runs / "tiny") == {"recipe.yaml"}
    (runs / "_tiny").unlink()
    (runs / "_tiny").mkdir()
    done = edgeloop_here("run", TINY, "--runs", runs, "--json")
    assert done.returncode == 0 and "is not a folder of results; move it away" in done.stderr
    assert json.loads(done.stdout)["folder"] is None


def test_a_file_system_without_links_gets_copies(runs: Path) -> None:
    with mock.patch.object(Path, "symlink_to", side_effect=PermissionError(errno.EPERM, "Operation not permitted")):
        for _ in range(2):
            (runs / "tiny").unlink() if (runs / "tiny").is_symlink() else None
            run(runs)
            assert not (runs / "tiny").is_symlink() and names(runs / "tiny") >= FILES
            assert not any(p.is_symlink() for p in (runs / "tiny").iterdir())
            assert edgeloop_here("open", "report", "tiny", "--runs", runs).stdout.strip() == str(runs / "tiny" / "report.html")
    run(runs)
    assert (runs / "tiny").is_symlink() and names(runs / "tiny") >= FILES


def test_a_run_without_files_on_a_file_system_without_links(runs: Path) -> None:
    result = RunResult(recipes.load(TINY / "recipe.yaml"), Store(runs))
    with mock.patch.object(Path, "symlink_to", side_effect=OSError(errno.EOPNOTSUPP, "Operation not supported")):
        (runs / "tiny").unlink()
        kept_runs.keep(result, record_of(result, None, "run"), {"log.txt": "none"}, show=True)
    assert names(runs / "tiny") == {"record.json", "log.txt", ".edgeloop-results"}


def test_a_run_that_the_kernel_kills_while_it_shows_its_results(runs: Path) -> None:
    script = (
        "import os, signal, sys\nreal = os.replace\n"
        f"os.replace = lambda a, b: os.kill(os.getpid(), signal.SIGKILL) if str(b) == {str(runs / 'tiny')!r} else real(a, b)\n"
        f"sys.argv = ['edgeloop', 'run', {str(TINY)!r}, '--runs', {str(runs)!r}]\n"
        "from edgeloop_pipeline.__main__ import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL and (runs / ".tiny.link").is_symlink()
    assert (runs / "tiny").readlink() == Path("history/tiny/1") and names(runs / "tiny") >= FILES
    run(runs)
    assert (runs / "tiny").readlink() == Path("history/tiny/3") and not (runs / ".tiny.link").is_symlink()


@pytest.mark.parametrize("step", range(4))
def test_a_run_killed_while_it_shows_its_results(runs: Path, step: int) -> None:
    """The folder shows the whole earlier run or the whole new one, and the next run repairs it."""
    calls = 0
    real = os.replace

    def killed(*paths: Any) -> None:
        nonlocal calls
        calls += "history" in str(paths[0]) or "tiny" in str(paths[1])
        if calls > step:
            raise KeyboardInterrupt
        real(*paths)

    with mock.patch("os.replace", killed):
        assert edgeloop_here("run", TINY, "--runs", runs, "--json").returncode == 130
    assert names(runs / "tiny") >= FILES
    run(runs)
    assert names(runs / "tiny") >= FILES and not list((runs / "history" / "tiny").glob(".partial"))


def test_out_copies_the_bundle_and_refuses_early(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.edgeloop"
    answer = run(runs, "--out", out)
    assert out.read_bytes() == Path(answer["bundle"]).read_bytes() and not list(tmp_path.glob(".*"))
    fresh = tmp_path / "fresh"
    for given, code, said in (
        ("mine.zip", 2, "ends in .edgeloop"),
        (tmp_path / "absent" / "mine.edgeloop", 7, "there is no folder"),
        (tmp_path, 2, "ends in .edgeloop"),
    ):
        assert said in sentence(edgeloop_here("run", TINY, "--runs", fresh, "--out", given), code)
    off = edgeloop_here("run", TINY, "--runs", fresh, "--out", out, "--set=package=off")
    assert "has no package stage" in sentence(off, 2)
    with mock.patch("os.access", return_value=False):
        assert "cannot be written" in sentence(edgeloop_here("run", TINY, "--runs", fresh, "--out", tmp_path / "other.edgeloop"), 7)
    assert not fresh.exists(), "nothing ran"


def test_compare_and_clean(runs: Path) -> None:
    run(runs, "--set=model_card=Another.")
    found = json.loads(edgeloop_here("compare", "tiny", "--runs", runs, "--json").stdout)
    assert found["settings"] == [{"what": "model_card", "before": "", "after": "Another."}]
    assert found["code"] == found["data"] == found["libraries"] == []
    assert {f["name"] for f in found["files"]} == {p.partition(".")[0] for p in MODELS}
    text = edgeloop_here("compare", "tiny@1", TINY, "--runs", runs).stdout
    assert "model_card: '' → Another." in text and "135 samples)" in text and "p50 µs" in text
    assert "kept runs of tiny: tiny@1, tiny@2" in sentence(edgeloop_here("compare", "tiny@7", "tiny", "--runs", runs), 2)
    assert "neither a project nor a run" in sentence(edgeloop_here("compare", "tyni", "tiny", "--runs", runs), 2)

    before = {p.name for p in (runs / "cache").iterdir()}
    (runs / "cache" / ".partial-train-0").mkdir()
    (runs / "cache" / ".partial-train-0" / "network").write_text("half")
    (runs / "work" / "train-0").mkdir(parents=True)
    told = json.loads(edgeloop_here("clean", "--runs", runs, "--json").stdout)
    assert {Path(i["path"]).name.partition("-")[0] for i in told["items"] if not i["why"]} == {"package", "report", ".partial"}
    assert {p.name for p in (runs / "cache").iterdir()} > before, "nothing is removed without --yes"
    for entry in (runs / "cache").glob("package-*"):
        os.utime(entry / "done.json", (0, 0))
    old = json.loads(edgeloop_here("clean", "--runs", runs, "--json", "--older-than", "1").stdout)
    assert {row["stage"]: [bool(size) for size in row["free_by_age"]] for row in old["stages"] if row["free"]} == {
        "package": [False, False, False, True], "half-written": [True, False, False, False],
    }  # fmt: skip
    done = edgeloop_here("clean", "--runs", runs, "--yes")
    assert f"{told['free_bytes']:,} bytes freed" in done.stdout
    gone = before - {p.name for p in (runs / "cache").iterdir()}
    assert {name.partition("-")[0] for name in gone} == {"package", "report"}
    assert (runs / "work" / "train-0").is_dir(), "checkpoints stay"
    assert names(runs / "history" / "tiny" / "1") == {p.name for p in (runs / "history" / "tiny" / "1").iterdir()}, "no dead links"
    shutil.rmtree(next((runs / "cache").glob("report-*")))
    assert "no longer in the cache" in sentence(edgeloop_here("open", "report", "tiny", "--runs", runs), 2)
    run(runs, "--set=model_card=Another.")
    assert all(s["cached"] for s in run(runs, "--set=model_card=Another.")["stages"])


def test_clean_waits_for_no_run(runs: Path) -> None:
    with Store(runs).lock():
        assert "another run works" in sentence(edgeloop_here("clean", "--runs", runs, "--yes"), 7)
    assert "has no cache" in sentence(edgeloop_here("clean", "--runs", runs / "absent"), 2)


def test_open_shows_the_report_in_the_browser(runs: Path, tmp_path: Path) -> None:
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    script.chmod(0o755)
    done = command("edgeloop", "open", "report", TINY, "--runs", runs, BROWSER=f"{script} %s", DISPLAY="")
    assert done.stdout.strip() == str(runs / "tiny" / "report.html")
    assert (tmp_path / "opened").read_text().strip() == (runs / "tiny" / "report.html").as_uri()
    plain = command("edgeloop", "open", "report", "tiny", "--runs", runs, BROWSER="", DISPLAY="", WAYLAND_DISPLAY="")
    assert (plain.returncode, plain.stdout) == (0, done.stdout)
    earlier = runs / "history" / "tiny" / "1"
    assert edgeloop_here("open", "folder", earlier, "--runs", tmp_path, DISPLAY="").stdout.strip() == str(earlier)
    assert "neither a project nor a run" in sentence(edgeloop_here("open", "report", "tyni", "--runs", runs), 2)


def test_retraining_and_parts_of_runs_leave_the_folder_alone(runs: Path) -> None:
    recipe, before = recipes.load(TINY / "recipe.yaml"), (runs / "tiny").readlink()
    run_recipe(recipe, Store(runs), Listener(), keep="no")
    assert list(kept_runs.kept(runs, "tiny")) == [1]
    run_recipe(recipe, Store(runs), Listener(), keep="history")
    assert list(kept_runs.kept(runs, "tiny")) == [1, 2]
    assert (runs / "tiny").readlink() == before


def test_the_history_is_bounded(runs: Path) -> None:
    result, one = RunResult(recipes.load(TINY / "recipe.yaml"), Store(runs)), record(runs)
    for number in range(kept_runs.MAX_KEPT_RUNS + 5):
        kept_runs.keep(result, msgspec.structs.replace(one, error=f"failure {number}"), {}, show=number == 3)
    kept = list(kept_runs.kept(runs, "tiny"))
    assert len(kept) == kept_runs.MAX_KEPT_RUNS + 1, "and the run that is shown"
    assert (runs / "tiny").readlink() == Path("history/tiny/5")
    again = kept_runs.keep(result, msgspec.structs.replace(one, error=f"failure {number}"), {}, show=False)
    assert list(kept_runs.kept(runs, "tiny"))[-1] == int(again.name) == kept[-1] + 1
    assert kept[-1] not in kept_runs.kept(runs, "tiny"), "the same run twice is kept once"


def test_many_data_files_are_compared_by_one_digest(runs: Path) -> None:
    one = msgspec.structs.replace(record(runs), data={}, data_files=600, data_sha256="a" * 64)
    other = msgspec.structs.replace(one, data_files=601, data_sha256="b" * 64)
    (change,) = compare(one, other).data
    assert change.what == ALL_DATA and change.before == f"600 files, {'a' * 64}" and change.after == f"601 files, {'b' * 64}"
    named = [msgspec.structs.replace(one, data={"a": d, "b": "1"}, data_sha256=d) for d in ("1", "2")]
    assert [(c.what, c.before, c.after) for c in compare(*named).data] == [("a", "1", "2")]


def test_the_log_is_bounded() -> None:
    log = RunLog(Listener())
    for number in range(MAX_HEAD_LINES + MAX_TAIL_LINES + 10):
        log.log("train", f"line {number} " + "x" * 5000)
    lines = log.text().splitlines()
    assert len(lines) == MAX_HEAD_LINES + MAX_TAIL_LINES + 1 and "… 10 lines left out …" in lines
    assert "line 0 " in lines[0] and f"line {MAX_HEAD_LINES + MAX_TAIL_LINES + 9} " in lines[-1]
    assert max(map(len, lines)) <= 2000


def test_copies_of_a_runs_folder_without_links_are_left_alone(runs: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(runs, tmp_path / "copied"))  # links became files
    assert Path(run(copied)["folder"]) == copied / "_tiny"
