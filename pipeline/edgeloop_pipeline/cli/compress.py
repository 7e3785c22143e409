"""`edgeloop compress`: a trained model into a verified int8 pair."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeloop_contract.errors import EdgeloopError, UsageError
from edgeloop_pipeline.cli.pack import boxes_given, by_input, labels_given, length_given, numbers_given, pairs_given, steps_given
from edgeloop_pipeline.cli.run_options import FiniteRange, runs_option

if TYPE_CHECKING:
    from edgeloop_pipeline.recipe.settings import Imported


@click.command()
@click.argument("model")
@click.option(
    "--calibrate",
    "--data",
    "calibrate",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DATA",
    help="Pictures, sound, tables, arrays, texts.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="The project folder to make.")
@click.option("--weights", type=click.Path(path_type=Path), help="Of FILE.py:FUNCTION, timm: or torchvision: (.safetensors, .pt).")
@click.option("--name", default="", help="The model's name on devices and hub; default: the folder's name.")
@click.option("--labels", default="", help="A file with one label a line, or labels with commas between.")
@click.option(
    "--normalize", default="", metavar="HOW", help="imagenet, unit, symmetric, counts, waveform (sound), or MEAN/STD in counts."
)
@click.option("--bgr/--rgb", default=None, help="The order of a picture's channels; default: rgb.")
@click.option("--fit", type=click.Choice(["stretch", "crop", "letterbox"]), help="How a picture gets the model's size.")
@click.option(
    "--preprocess",
    multiple=True,
    metavar="[INPUT=]STEPS",
    help="YAML list of steps, or a file with it; see docs/preprocessing.md. Of several inputs, say of which; may be repeated.",
)
@click.option("--constant", multiple=True, metavar="INPUT=VALUES", help="An input that always has these values; may be repeated.")
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An output that is this input at the next call.")
@click.option("--no-states", is_flag=True, help="No output comes back as an input, whatever it looks like.")
@click.option(
    "--label-at",
    type=click.Choice(["last", "any", "every"]),
    help="Of a model that keeps state, with --labels: which of a recording's answers its label is held against.",
)
@click.option(
    "--tokenizer",
    multiple=True,
    metavar="[INPUT=]FILE",
    help="Of a model of texts: its tokenizer.json. Of several inputs, say of which; may be repeated.",
)
@click.option(
    "--length",
    multiple=True,
    metavar="[INPUT=]N",
    help="Token ids of a text; default: as many as the texts have. Of several texts, say of which; may be repeated.",
)
@click.option(
    "--text-column",
    multiple=True,
    metavar="[INPUT=]NAME",
    help="The texts' column in a .csv, .tsv or .jsonl file. Of several texts, say of which; may be repeated.",
)
@click.option("--label-column", default="", metavar="NAME", help="The labels' column there.")
@click.option(
    "--output", "outputs", multiple=True, metavar="TENSOR", help="An output that counts, of several; may be repeated. Default: all."
)
@click.option(
    "--size",
    multiple=True,
    metavar="[INPUT=]AxBxC",
    help="One sample's shape at the input, if the file leaves sizes open. Of several inputs, say of which; may be repeated.",
)
@click.option("--boxes", default="", metavar="LAYOUT", help="How a detector's outputs say boxes; see docs/detection.md.")
@click.option("--points", default="", help="Names of the points of boxes, as --labels.")
@click.option("--task", type=click.Choice(["classification", "tensors", "detection"]), help="Default: as labels and the graph say.")
@click.option(
    "--measure", type=click.Choice(["agreement", "cosine", "mask_iou", "r2", "signal", "boxes"]), help="What int8 has to keep."
)
@click.option("--min-agreement", type=FiniteRange(0, 1), help="The least that int8 keeps, by the measure; it may train for it.")
@click.option(
    "--prune",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Remove this share of the channels, and let the rest learn from the original; that takes much data.",
)
@click.option("--epochs", type=click.IntRange(1), default=10, show_default=True, help="Of that learning.")
@click.option("--max-latency-us", type=FiniteRange(0, min_open=True), help="Of the fastest int8 file here, batch 1.")
@click.option("--max-bytes", type=click.IntRange(1), help="Of each int8 file.")
@click.option(
    "--io",
    "doors",
    type=click.Choice(["ours", "original"]),
    default="ours",
    show_default=True,
    help="original: also drop-in.onnx, with MODEL's own input and output.",
)
@click.option("--symmetric", is_flag=True, help="Also an int8 file for TensorRT (a Jetson's GPU), with scales of its own.")
@click.option("--prepare-only", is_flag=True, help="Write the project, and do not run it.")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def compress(model: str, calibrate: Path, out: Path, runs: Path, prepare_only: bool, as_json: bool, **given: Any) -> None:
    """Make MODEL small: a project in FOLDER, int8 files for ONNX and TFLite, checked against MODEL, and a bundle.

    MODEL: a float .onnx file, a .pt2 file of torch.export, FILE.py:FUNCTION that returns a network, timm:NAME, torchvision:NAME, or
    hf:NAME (an image classifier, by its name or folder).
    """
    from edgeloop_pipeline.importing.project import make_project
    from edgeloop_pipeline.importing.request import CompressRequest
    from edgeloop_pipeline.importing.torch_models import is_torch

    steps = dict(steps_given(text) for text in given["preprocess"])
    sizes = dict(_size(text) for text in given["size"])
    lengths = {name: length_given(text) for name, text in by_input("--length", given["length"]).items()}
    columns = by_input("--text-column", given["text_column"])
    tokenizers = {name: Path(text) for name, text in by_input("--tokenizer", given["tokenizer"]).items()}
    request = CompressRequest(
        model=Path(model), reference=model, weights=given["weights"], calibrate=calibrate, out=out, name=given["name"],
        labels=labels_given(given["labels"]),
        normalize=_normalize(given["normalize"]), bgr=given["bgr"], fit=given["fit"],
        steps=steps.pop("", []), steps_of=steps, outputs=given["outputs"], shape=sizes.pop("", ()), shape_of=sizes,
        constants={name: numbers_given(name, text) for name, text in pairs_given("--constant", given["constant"])},
        states=dict(pairs_given("--state", given["state"])), no_states=given["no_states"], label_at=given["label_at"],
        task=given["task"],
        boxes=boxes_given(given["boxes"]) if given["boxes"] else None, points=labels_given(given["points"], "--points"),
        measure=given["measure"],
        min_agreement=given["min_agreement"], max_latency_us=given["max_latency_us"], max_bytes=given["max_bytes"],
        tokenizer=tokenizers.pop("", None), length=lengths.pop("", 0), text_column=columns.pop("", ""), tokenizers=tokenizers,
        lengths=lengths, text_columns=columns,
        label_column=given["label_column"],
        drop_in=given["doors"] == "original", symmetric=given["symmetric"], prune=given["prune"], epochs=given["epochs"],
    )  # fmt: skip
    if request.weights is not None and not is_torch(model):
        raise UsageError("--weights: a model file has its weights inside; leave it out")
    meaning = make_project(request, _ask)
    click.echo(f"{model}:", err=True)
    for fact in meaning.facts:
        click.echo(f"  {fact}", err=True)
    for guess in meaning.guesses:
        click.echo(f"  please check: {guess}", err=True)
    if prepare_only:
        click.echo(f"{out}: edit recipe.yaml, then: edgeloop run {shlex.quote(str(out))}", err=as_json)
        return
    _run(model, out, runs, as_json, request.min_agreement is not None)


def _run(model: str, folder: Path, runs: Path, as_json: bool, floor: bool) -> None:
    from edgeloop_pipeline.cache.store import Store
    from edgeloop_pipeline.cli.console import Console, summary_json, summary_table
    from edgeloop_pipeline.importing.closing_words import closing_words
    from edgeloop_pipeline.recipe import recipe as recipes
    from edgeloop_pipeline.run.last_run import remember
    from edgeloop_pipeline.run.runner import RunResult
    from edgeloop_pipeline.run.runner import run as run_recipe

    recipe, store = recipes.load(recipes.find(str(folder))), Store(runs)
    remember(store, recipe.path, ())
    result = RunResult(recipe, store)
    try:
        run_recipe(recipe, store, Console(), result)
    except EdgeloopError as error:
        click.echo(f"{folder}: the project is kept; edit recipe.yaml, then: edgeloop run {shlex.quote(str(folder))}", err=True)
        if as_json:
            click.echo(summary_json(result, str(error)))
        raise
    if as_json:
        click.echo(summary_json(result))
    else:
        summary_table(result)
    for sentence in closing_words(result.entries, _bytes_of(model, folder, recipe.head.imported), floor):
        click.echo(f"  please check: {sentence}", err=True)


def _bytes_of(model: str, folder: Path, imported: Imported | None) -> int:
    """Of the file that was compressed, with the weights beside it: MODEL, or the ONNX file that was made of it."""
    from edgeloop_pipeline.data.original_answers import files_beside
    from edgeloop_pipeline.importing.torch_models import is_torch

    path = folder / imported.model if imported is not None and is_torch(model) else Path(model)
    beside = files_beside(path) if path.suffix == ".onnx" else []
    return sum(file.stat().st_size for file in (path, *beside))


def _normalize(text: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    from edgeloop_pipeline.importing.input_meaning import NORMALIZATIONS, SOUND

    known = NORMALIZATIONS | SOUND
    if not text or text in known:
        return known[text] if text else None
    try:
        mean, std = (tuple(float(part) for part in side.split(",")) for side in text.split("/"))
    except ValueError:
        names = ", ".join(known)
        raise UsageError(f"--normalize {text}: say {names}, or MEAN/STD such as 127.5/127.5 or 124,116,104/58,57,57") from None
    if (
        not all(value > 0 and value < float("inf") for value in std)
        or len(mean) not in (1, len(std))
        or len(std) not in (1, len(mean))
    ):
        raise UsageError(f"--normalize {text}: give a mean and a std above 0, one for all channels or one each")
    return mean, std


def _size(text: str) -> tuple[str, tuple[int, ...]]:
    """INPUT=AxBxC or AxBxC."""
    name, _, sizes = text.rpartition("=")
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", sizes):
        raise UsageError(f"--size {text}: write sizes such as 3x224x224, without the batch")
    return name, tuple(int(part) for part in sizes.split("x"))


def _ask(question: str, answers: list[str]) -> str | None:
    """Where a person sits, ask; else None."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    answer: str = click.prompt(question, type=click.Choice(answers), err=True)
    return answer
