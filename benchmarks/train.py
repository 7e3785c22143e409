"""Training against the loops that people write: PyTorch's tutorial, Lightning's Trainer, accelerate's documentation."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import BIN, Row, at_least, at_most, each, edgeloop, main
from train_peers import Fashion, accelerated, lightning, tutorial

QUICK_IMAGES, IMAGES = 4_000, 20_000


def throughput(quick: bool) -> Iterator[Row]:
    fashion = Fashion(QUICK_IMAGES if quick else IMAGES)
    loops: dict[str, Callable[[Fashion], float]] = {
        "PyTorch's tutorial loop": tutorial,
        "Lightning's Trainer": lightning,
        "accelerate's loop": accelerated,
        "ours": lambda f: float(f.ours()[1].facts.samples_per_second),
    }
    # In turn, and the better of two: what else a shared machine does hits everyone alike.
    rounds = [{name: loop(fashion) for name, loop in loops.items()} for _ in range(1 if quick else 2)]
    peers = {name: max(r[name] for r in rounds) for name in loops}
    ours = peers.pop("ours")
    for name, peer in peers.items():
        yield at_ratio(f"our defaults against {name}", ours, "images/s", peer, 2.0 if "accelerate" not in name else 1.0)
    same = fashion.ours(precision="float32", channels_last=False, workers=0)[1].facts.samples_per_second
    best = max(peers, key=lambda name: peers[name])
    yield at_ratio(f"same settings, against {best}", same, "images/s", peers[best], 1.0)


def at_ratio(name: str, value: float, unit: str, peer: float, floor: float) -> Row:
    ratio = value / peer
    return Row(name, value, unit, peer, round(ratio, 2), f"≥ {floor:g}×", ratio >= floor)


GOAL, GOAL_EPOCHS = 0.92, 6


def time_to_accuracy(_: bool = False) -> Iterator[Row]:
    """Wall time until 92 % on validation data, everything included that comes before it."""
    fashion, reached = Fashion(), {}
    start = time.perf_counter()

    def peer_epoch(network: Any) -> bool:
        if fashion.accuracy(network, "validation") >= GOAL:
            reached["peer"] = time.perf_counter() - start
        return "peer" in reached

    tutorial(fashion, GOAL_EPOCHS, peer_epoch)
    start = time.perf_counter()

    def our_line(line: str) -> None:
        if "validation" in line and float(line.split("validation ")[1].split("%")[0]) >= 100 * GOAL:
            reached.setdefault("ours", time.perf_counter() - start)

    fashion.ours(our_line, epochs=GOAL_EPOCHS)
    missing = float("inf")
    ours, peer = reached.get("ours", missing), reached.get("peer", missing)
    yield Row(f"seconds to {GOAL:.0%} on validation", ours, "s", peer, round(peer / ours, 2), "", None)


def _peak_of(kind: str, batch: int) -> int:
    """Bytes above the start, in a process of its own."""
    import torch

    from edgeloop_pipeline.training.memory import resident_bytes

    fashion = Fashion(2 * batch)
    network = fashion.network()
    if kind == "plain":
        x = fashion.normalization.normalize(torch.from_numpy(fashion.splits.train.values[:batch]))
        labels = torch.from_numpy(fashion.splits.train.labels[:batch])
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_bytes()[0]
        for _ in range(2):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), labels).backward()
            optimizer.step()
        return resident_bytes()[1] - before
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()[0]
    splits = fashion.splits
    few = {name: getattr(splits.validation, name)[:64] for name in ("values", "labels", "recording", "groups")}
    fashion.splits = replace(splits, validation=replace(splits.validation, **few))
    fashion.ours(batch=batch, accumulate=batch // 32, checkpoint_activations=True, precision="float32", workers=0)
    return resident_bytes()[1] - before


def memory(quick: bool) -> Iterator[Row]:
    batch = 512 if quick else 1024
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for kind in ("plain", "ours"):
        with context.Pool(1) as pool:
            peaks[kind] = pool.apply(_peak_of, (kind, batch)) / 1e6
    share = peaks["ours"] / peaks["plain"]
    name = f"peak memory at batch {batch}: accumulation, recomputation"
    yield Row(name, peaks["ours"], "MB", peaks["plain"], round(1 / share, 2), "≤ 0.4 of it", share <= 0.4)


def _image_batches(keep: bool) -> tuple[float, float]:
    """Images of 224 pixels a second through the first layers of a mobile network, in a process of its own; and its peak in MB."""
    import torch
    from torch import nn

    from edgeloop_pipeline.system import malloc
    from edgeloop_pipeline.training.memory import resident_bytes

    if keep:
        malloc.keep_freed()
    layers = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU6(), nn.Conv2d(32, 96, 1), nn.ReLU6(), nn.Conv2d(96, 96, 3, 2, 1, groups=96)]
    network, images, rounds = nn.Sequential(*layers).eval(), torch.randn(32, 3, 224, 224), 8
    with torch.no_grad():
        network(images)
        start = time.perf_counter()
        for _ in range(rounds):
            network(images)
    return rounds * len(images) / (time.perf_counter() - start), resident_bytes()[1] / 1e6


def allocations(quick: bool) -> Iterator[Row]:
    """What it brings that freed memory stays with the process: large images, without gradients (calibration, scores)."""
    found = []
    for keep in (False, True):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_image_batches, (keep,)))
    (peer, before), (ours, after) = found
    yield at_ratio("large images: freed memory kept, against PyTorch as it is", ours, "images/s", peer, 1)
    yield Row("  peak memory of it", after, "MB", before, round(before / after, 2), "", None)


def float8(_: bool = False) -> Iterator[Row]:
    """Final accuracy on the full test set, and what the window of maxima costs."""
    fashion, epochs = Fashion(), 5
    exact, _ = fashion.ours(epochs=epochs, precision="float32")
    eight, fitted = fashion.ours(epochs=epochs, precision="fp8")
    lost = 100 * (fashion.accuracy(exact) - fashion.accuracy(eight))
    yield at_most("FP8 delayed scaling: points lost to float32", lost, "points", 0.3)
    facts = fitted.facts
    yield Row("FP8: history of maxima", facts.float8.history_bytes, "B")
    small = Fashion(QUICK_IMAGES)
    dynamic = small.ours(precision="fp8", float8=_float8("dynamic"))[1].facts.samples_per_second
    delayed = small.ours(precision="fp8", float8=_float8("delayed"))[1].facts.samples_per_second
    yield Row("FP8: delayed against dynamic scaling", delayed, "images/s", dynamic, round(delayed / dynamic, 2))


def _float8(scaling: str) -> Any:
    from edgeloop_pipeline.training.settings import Float8

    return Float8(scaling=scaling)


SWEEP_BATCHES = (16, 32, 64, 128, 256, 512, 1024, 2048)
SWEEP_RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
SWEEP_EPOCHS = 4


def searches(_: bool = False) -> Iterator[Row]:
    """Ours against training with every candidate."""
    fashion = Fashion(15_000)
    found = fashion.ours(batch="auto", learning_rate=0.05)[1].facts
    start = time.perf_counter()
    speeds = {batch: fashion.ours(batch=batch, learning_rate=0.05)[1].facts.samples_per_second for batch in SWEEP_BATCHES}
    swept = time.perf_counter() - start
    share = speeds[found.batch] / max(speeds.values()) if found.batch in speeds else 0.0
    yield at_least(f"batch search: found {found.batch}; share of the best throughput", share, "", 0.95)
    yield at_most("batch search: cost, share of the sweep", found["search"]["seconds"] / swept, "", 0.1)
    start = time.perf_counter()
    accuracies = {}
    for rate in SWEEP_RATES:
        network, _ = fashion.ours(epochs=SWEEP_EPOCHS, learning_rate=rate)
        accuracies[rate] = fashion.accuracy(network)
    swept = time.perf_counter() - start
    network, fitted = fashion.ours(epochs=SWEEP_EPOCHS, learning_rate="auto")
    best = max(accuracies, key=lambda rate: accuracies[rate])
    lost = 100 * (accuracies[best] - fashion.accuracy(network))
    rate = fitted.facts.learning_rate
    yield at_most(f"rate search: found {rate:g}, best of sweep {best:g}; points lost", lost, "points", 0.3)
    yield at_most("rate search: cost, share of the sweep", fitted.facts.search.seconds / swept, "", 0.1)


KILLS = 20
AFTER = ("prune", "distill", "quantize", "export", "verify", "profile", "package", "report")
ONLY_TRAIN = [f"--set={stage}=off" for stage in AFTER]


def kills(quick: bool) -> Iterator[Row]:
    """kill -9 at random moments of training, until it finishes; then its weights against those of an undisturbed run."""
    wanted, rng = 3 if quick else KILLS, random.Random(0)
    folder = Path(tempfile.mkdtemp())
    changes = [*ONLY_TRAIN, "--set=train.epochs=12", "--set=train.checkpoint_steps=5"]
    try:
        weights = {}
        for name, disturbed in (("undisturbed", 0), ("killed", wanted)):
            command = [BIN / "edgeloop", "run", "exercise_watch", "--runs", folder / name, *changes]
            for _ in range(disturbed):
                process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
                assert process.stderr is not None
                for line in process.stderr:
                    if "epoch" in line or "resumed" in line:
                        break
                time.sleep(rng.uniform(0, 0.35))
                process.send_signal(signal.SIGKILL)
                process.wait()
                process.stderr.close()
            subprocess.run(command, check=True, capture_output=True)
            weights[name] = next((folder / name / "cache").glob("train-*/network.safetensors")).read_bytes()
        equal = float(weights["undisturbed"] == weights["killed"])
        yield Row(f"weights equal after {wanted} kills", equal, "", None, None, "equal", equal == 1.0)
    finally:
        shutil.rmtree(folder)


def loader(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as runs:
        epochs = 3 if quick else 8
        answer: Any = edgeloop("run", "spoken_digits", "--runs", runs, *ONLY_TRAIN, f"--set=train.epochs={epochs}")
    facts = answer["stages"][0]["metrics"]["training"]
    name = f"spoken_digits: waiting for data ({facts['loader']['workers']} workers)"
    yield at_most(name, 100 * facts["time_shares"]["waiting for data"], "%", 3.0)


def beside_another(quick: bool) -> Iterator[Row]:
    """A training alone, and two at once on the same cores: threads that wait soon sleep, or sleep at once, or spin on as
    libgomp's do by default."""
    _at_once(1, 1, {})  # what is read from disk for the first time
    for count, name in ((1, "one training"), (2, "two trainings at once")):
        ours = _at_once(count, 1 if quick else 4, {})
        for peer, turns in (("sleep at once", "0"), ("spin on", "300000")):
            theirs = _at_once(count, 1 if quick else 4, {"GOMP_SPINCOUNT": turns})
            yield Row(f"{name}, threads soon sleep, against: {peer}", ours, "s", theirs, round(theirs / ours, 2), "", None)


def _at_once(count: int, epochs: int, environment: dict[str, str]) -> float:
    """Seconds until all are done."""
    with tempfile.TemporaryDirectory() as folder:
        words = [BIN / "edgeloop", "run", "exercise_watch", *ONLY_TRAIN, f"--set=train.epochs={epochs}", "--runs"]
        quiet: Any = {"env": {**os.environ, **environment}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        start = time.perf_counter()
        running = [subprocess.Popen([*words, f"{folder}/{i}"], **quiet) for i in range(count)]
        codes = [process.wait() for process in running]
        if any(codes):
            sys.exit("beside_another: a training failed")
        return time.perf_counter() - start


def measure(quick: bool) -> Iterator[Row]:
    from edgeloop_pipeline.training.scoring import seed_everything

    seed_everything(0)
    whole = () if quick else (time_to_accuracy, float8, searches)
    yield from each(quick, throughput, memory, allocations, loader, beside_another, kills, *whole)
    if quick:
        print("left out by --quick: time to accuracy, FP8, searches", file=sys.stderr)


if __name__ == "__main__":
    main(measure)
