"""Post-training int8 against the tools people use, on the same float networks and data; pruning, budgets and trade-offs.

Peers, in this very run: onnxruntime's quantize_static (its defaults, per channel; and with entropy calibration), NNCF 3.4 on
ONNX (in a venv that this script makes), ai-edge-quantizer with its own calibration. Everyone gets the same calibration
samples and the float file of the same network. No training after quantization and no layer in float, for anybody.
With --quick only exercise_watch and two budgets; without, fashion's sweep is run as well, which takes about two hours unless
its runs are in runs/ already. $ONLY: some of the parts (peers pruning budgets trade_offs); $NETWORKS: of the peers' subjects,
names with '; ' between.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import BIN, Row, each, edgeloop, main
from quantizers import ai_edge, nncf, quantize_static

RUNS = Path("runs")
SECONDS = 0.5
CALIBRATION = 256
SPOIL = '''
"""The same function with channels scaled apart: what cross-layer equalization is for (Nagel et al. 2019)."""
from dataclasses import dataclass
from edgeloop_pipeline.stages import Base

@dataclass(frozen=True)
class Spoil(Base):
    needs, gives = ("network",), ("network",)

    def __call__(self, inputs, out):
        import torch
        from edgeloop_pipeline.networks import saved_network
        saved = saved_network.load(inputs.project, inputs.artefacts["network"])
        torch.manual_seed(0)
        with torch.no_grad():
            for block in saved.network.blocks:
                norm, following = block.first[1], block.second[0]
                factors = 10 ** torch.empty(len(norm.weight)).uniform_(-1.5, 1.5)
                norm.weight.mul_(factors)
                norm.bias.mul_(factors)
                following.weight.div_(factors.reshape(1, -1, 1, 1))
        saved_network.save(out, saved.network, saved.structure)
        return {}
'''
SMALL = ("network_args={widths: [16, 32, 64], blocks: 1}", "train.epochs=5")
# name → recipe, and what is changed so that a float network is there in minutes. The recipes' students would be trained for the
# integers' sake already; what is compared here is a plain float network.
SUBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "exercise_watch": ("exercise_watch", ("prune=off", "distill=off")),
    "spoken_digits": ("spoken_digits", ("prune=off", "distill=off")),
    "fashion": ("fashion", ("distill=off", *SMALL)),
    "fashion, channels scaled apart": ("spoiled", ("distill=off", *SMALL)),
    "photos": ("photos", ()),
}


@dataclass(frozen=True)
class Scored:
    """One int8 file. `right`: share of test samples; `noise`: scores against the float network's, dB."""

    right: float
    noise_db: float
    latency_us: float


def measure(quick: bool) -> Iterator[Row]:
    parts = (peers, pruning, budgets) if quick else (peers, pruning, budgets, trade_offs)
    only = os.environ.get("ONLY", "").split() or [part.__name__ for part in parts]
    yield from each(quick, *(part for part in parts if part.__name__ in only))


def peers(quick: bool) -> Iterator[Row]:
    wanted = ["exercise_watch"] if quick else os.environ.get("NETWORKS", "; ".join(SUBJECTS)).split("; ")
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            recipe, changes = SUBJECTS[name]
            where = spoiled(Path(folder) / "spoiled") if recipe == "spoiled" else recipe
            yield from against_peers(name, str(where), changes)


def spoiled(folder: Path) -> Path:
    subprocess.run([BIN / "edgeloop", "new", folder, "--like", "fashion"], check=True, capture_output=True)
    (folder / "spoil.py").write_text(SPOIL)
    text = (folder / "recipe.yaml").read_text().replace("name: fashion", "name: spoiled")
    (folder / "recipe.yaml").write_text(text.replace("  quantize:", "  spoil: {stage: spoil.py:Spoil}\n  quantize:"))
    return folder


def against_peers(name: str, recipe: str, changes: tuple[str, ...]) -> Iterator[Row]:
    from edgeloop_pipeline.bundling.variants import read_variants
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.recipe.project import Project

    off = tuple(f"{stage}=off" for stage in ("verify", "profile", "package", "report"))
    plainly = ("quantize.qat=never", f"quantize.calibration_samples={CALIBRATION}", "quantize.equalize=always", "target={}")
    all_integer = ("quantize.float_streams=never", "quantize.max_float_layers=0")  # as the peers' files are
    changes = (*changes, *off, *plainly, *all_integer)
    edgeloop("run", recipe, "--runs", RUNS, *(word for change in changes for word in ("--set", change)))
    loaded = recipes.load(recipes.find(recipe), changes)
    splits = Project(loaded).splits
    entry = Store(RUNS).last(loaded.head.name, "export")
    assert entry is not None
    exported = Store(RUNS).folder("export", entry.key)
    files = {v.name: (v, (exported / v.file).read_bytes()) for v in read_variants(exported)}
    plain_onnx, plain_tflite = files["onnx-float32"], files["tflite-float32"]
    reference = scores_of(*plain_onnx, splits)
    rows = np.random.default_rng(0).permutation(len(splits.train))[:CALIBRATION]
    samples = splits.train.values[rows]
    made = {
        "onnx": {
            "quantize_static": lambda: quantize_static(plain_onnx[1], samples, "MinMax"),
            "quantize_static, entropy": lambda: quantize_static(plain_onnx[1], samples, "Entropy"),
            "NNCF": lambda: nncf(plain_onnx[1], samples),
        },
        "tflite": {"ai-edge-quantizer": lambda: ai_edge(plain_tflite[1], samples)},
    }
    spread = float(np.sqrt(0.25 / len(splits.test)))  # one standard error at most
    for runtime, peers in made.items():
        ours = scored(*files[f"{runtime}-int8"], splits, reference)
        plain = files[f"{runtime}-float32"][0]
        found = {}
        for peer, make in peers.items():
            try:
                found[peer] = scored(plain, make(), splits, reference)
            except Exception as error:  # a peer that fails is said, and the others go on
                why = f"peer not run: {(str(error) or type(error).__name__).splitlines()[0][:150]}"
                yield Row(f"{name}, {runtime}: right, against {peer}", 100 * ours.right, "%", None, None, why)
        for peer, theirs in found.items():
            title = f"{name}, {runtime}: right, against {peer}"
            met = ours.right >= theirs.right - spread
            yield Row(title, 100 * ours.right, "%", 100 * theirs.right, round(ours.right / theirs.right, 3), "not worse", met)
            yield Row(f"{name}, {runtime}: dB, against {peer}", ours.noise_db, "dB", theirs.noise_db)
            ratio = theirs.latency_us / ours.latency_us
            title = f"{name}, {runtime}: p50, against {peer}"
            yield Row(title, ours.latency_us, "µs", theirs.latency_us, round(ratio, 2), "≥ 0.9×", ratio >= 0.9)


def scores_of(variant: Any, model: bytes, splits: Any) -> Any:
    from edgeloop_agent.runtimes import open_runtime

    runtime, values = open_runtime(variant, model, 2), splits.test.values
    size = 64 if variant.runtime == "onnx" else 1
    return np.concatenate([runtime.run(values[i : i + size]) for i in range(0, len(values), size)])


def scored(variant: Any, model: bytes, splits: Any, reference: Any) -> Scored:
    from edgeloop_agent.bench.measure import best_threads

    found = scores_of(variant, model, splits)
    if (found == found.round()).all():  # a peer's file answers in counts, of a scale that `variant` does not know
        scale, zero = np.polyfit(found.ravel().astype(float), reference.ravel(), 1)
        found = scale * found + zero
    noise = 10 * np.log10((reference**2).sum() / max(((reference - found) ** 2).sum(), 1e-12))
    cost = best_threads(variant, model, splits.test.values[:64], SECONDS)
    return Scored(float((found.argmax(1) == splits.test.labels).mean()), float(noise), cost.latency_us_p50)


def pruning(quick: bool) -> Iterator[Row]:
    """What shipped files gain from pruned channels, beside what the count of multiply-adds promises."""
    name, changes = ("exercise_watch", ()) if quick else ("fashion", SMALL)
    off = ("distill=off", "verify=off", "package=off", "report=off")
    found = {}
    for keep in (1.0, 0.5, 0.25):
        stages = (
            f"prune={{keep: {keep}, round_to: 8}}",
            "quantize={qat: never}",
            "export={}",
            "profile={seconds: 0.5}",
            "target={}",
        )
        words = (*changes, *off, *stages)
        run: Any = edgeloop("run", name, "--runs", RUNS, *(w for change in words for w in ("--set", change)))
        found[keep] = {s["name"]: s["metrics"] for s in run["stages"]}
    for keep in (0.5, 0.25):
        dense, pruned = found[1.0], found[keep]
        macs = dense["prune"]["multiply_adds"] / pruned["prune"]["multiply_adds"]
        for variant, cost in pruned["profile"]["variants"].items():
            if variant.endswith("int8"):
                before = dense["profile"]["variants"][variant]["latency_us_p50"]
                ratio = round(before / cost["latency_us_p50"], 2)
                title = f"{name}, keep {keep}: {variant} p50; MACs ÷ {macs:.2f}, bytes ÷ "
                size = dense["export"]["bytes"][variant] / pruned["export"]["bytes"][variant]
                yield Row(f"{title}{size:.2f}", cost["latency_us_p50"], "µs", before, ratio)


# What a budget asks of spoken_digits' network, as shares of what it takes whole; the last cannot be met.
BUDGETS: tuple[dict[str, float], ...] = (
    {"max_int8_bytes": 0.7},
    {"max_latency_us": 0.6},
    {"max_ram_bytes": 0.6},
    {"max_latency_us": 0.5, "max_int8_bytes": 0.6},
    {"max_int8_bytes": 0.45, "max_ram_bytes": 0.4},
    {"max_int8_bytes": 0.1},
)


def budgets(quick: bool) -> Iterator[Row]:
    """Each budget: the share of it that the kept network uses, its accuracy, and how many attempts that took."""
    name = "exercise_watch" if quick else "spoken_digits"
    off = [f"{stage}=off" for stage in ("prune", "distill", "quantize", "export", "verify", "profile", "package", "report")]
    whole: dict[str, float] = {}
    for shares in BUDGETS[:2] if quick else BUDGETS:
        if not whole:  # what the network takes whole is measured by any budget
            whole = _budget(name, {"max_int8_bytes": 10**9}, off, attempts=1)["whole"]
        sizes = {"max_int8_bytes": "bytes", "max_latency_us": "latency_us", "max_ram_bytes": "ram_bytes"}
        target = {ceiling: int(share * whole[sizes[ceiling]]) for ceiling, share in shares.items()}
        found = _budget(name, target, off)
        kept, used = found["attempts"][found["kept"]], max(found["used"].values())
        asked = ", ".join(f"{ceiling} {value:,}" for ceiling, value in target.items())
        tried = f"{len(found['attempts'])} attempts"
        said = "; said so" if found["missed"] else ""
        yield Row(f"{name}, {asked}: used after {tried}{said}", 100 * used, "%", None, None, "≤ 100", used <= 1)
        yield Row(f"{name}, {asked}: validation accuracy", 100 * kept["accuracy"], "%", 100 * whole["accuracy"])


def _budget(name: str, target: dict[str, int], off: list[str], attempts: int = 6) -> dict[str, Any]:
    words = (
        *off,
        f"target={{{', '.join(f'{k}: {v}' for k, v in target.items())}}}",
        f"budget={{attempts: {attempts}, epochs: 4, learning_rate: 0.02}}",
    )
    run: Any = edgeloop("run", name, "--runs", RUNS, *(w for change in words for w in ("--set", change)))
    return next(s["metrics"] for s in run["stages"] if s["name"] == "budget")  # type: ignore[no-any-return]


def trade_offs(_: bool) -> Iterator[Row]:
    """fashion's students between speed, bytes and accuracy, on the test set; beside the recipe's own."""
    whole = _shipped(edgeloop("run", "fashion", "--runs", RUNS))
    swept: Any = edgeloop("sweep", "fashion", "--runs", RUNS)
    for trial in swept["trials"]:
        if not trial["best"]:
            continue
        found = _shipped(edgeloop("run", "fashion", "--runs", RUNS, "--from-sweep", trial["number"], "--set", "target={}"))
        title = f"fashion, trial {trial['number']} ({found['parameters']:,.0f} parameters)"
        yield Row(f"{title}: int8 accuracy", found["accuracy"], "%", whole["accuracy"])
        for figure, unit in (("latency", "µs"), ("bytes", "bytes")):
            yield Row(f"{title}: {figure}", found[figure], unit, whole[figure], round(whole[figure] / found[figure], 2))


def _shipped(run: Any) -> dict[str, float]:
    """The int8 files of a run: the less accurate, the faster, the larger of the two."""
    files = [v for v in run["variants"] if v["precision"] == "int8"]
    return {
        "accuracy": 100 * min(v["accuracy"] for v in files),
        "latency": min(v["latency_us_p50"] for v in files),
        "bytes": max(v["bytes"] for v in files),
        "parameters": next(s["metrics"]["parameters"] for s in run["stages"] if s["name"] == "distill"),
    }


if __name__ == "__main__":
    main(measure)
