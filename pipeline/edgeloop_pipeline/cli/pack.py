"""`edgeloop pack`: a bundle of model files that exist already."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeloop_contract.errors import UsageError

if TYPE_CHECKING:
    from edgeloop_contract.tasks import Detection

EXIT_CODES = """\b
Exit codes: 0 done · 2 wrong usage · 3 sample data · 4 the model file · 6 this machine cannot run it · 7 disk or folder"""
TASKS = ["classification", "multilabel", "regression", "tensors", "detection", "keypoints", "segmentation"]
BESIDE = (
    "score_threshold",
    "iou_threshold",
    "max_boxes",
    "prototypes",
    "prototype_channels",
    "mask_threshold",
)  # the layout's settings
MAX_LENGTH = 8192  # token ids of a text
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@click.command(epilog=EXIT_CODES)
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL…")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle's path; it ends in .edgeloop.")
@click.option("--name", default="", help="The model's name on devices and hub; default: the first file's name.")
@click.option("--version", type=click.IntRange(min=1), default=1, show_default=True, help="Grows with each bundle of this model.")
@click.option("--task", type=click.Choice(TASKS), help="Default: by labels or quantities.")
@click.option("--labels", default="", help="A file with one label a line, or labels with commas between.")
@click.option("--quantities", default="", help="Names of the quantities of a regression, with commas between.")
@click.option(
    "--scores", type=click.Choice(["logits", "probabilities"]), help="What the scores are; default: as the file shows it."
)
@click.option("--output", default="", metavar="TENSOR", help="The output that holds the scores.")
@click.option("--boxes", default="", metavar="LAYOUT", help="How the outputs are boxes: YAML, or a file; docs/detection.md.")
@click.option("--points", default="", help="Names of the points of boxes, as --labels.")
@click.option("--preprocess", multiple=True, metavar="[INPUT=]STEPS", help="YAML list of steps, or a file with it; see docs.")
@click.option("--tokenizer", multiple=True, metavar="[INPUT=]FILE", help="The tokenizer.json of an input of token ids, or of all.")
@click.option("--length", multiple=True, metavar="[INPUT=]N", help="Token ids of a text, where the file leaves it open.")
@click.option("--constant", multiple=True, metavar="TENSOR=VALUES", help="An input that always has these values.")
@click.option("--state", multiple=True, metavar="INPUT=OUTPUT", help="An output that is this input at the next window.")
@click.option("--no-states", is_flag=True, help="No tensor is state.")
@click.option(
    "--reset", type=click.Choice(["recording", "never"]), default="recording", show_default=True, help="When state begins anew."
)
@click.option("--shape", multiple=True, metavar="TENSOR=AxB…", help="Sizes that the file leaves open, the batch with them.")
@click.option("--samples", type=click.Path(path_type=Path), help="Sample data for the canary: a folder or a file.")
@click.option("--card", type=click.Path(path_type=Path), help="A file with the model card's text.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, and nothing else there.")
def pack(models: tuple[Path, ...], out: Path, as_json: bool, card: Path | None, **given: Any) -> None:
    """Put MODEL (.onnx or .tflite, float or int8; several files of one model) into a bundle as it is."""
    import msgspec

    from edgeloop_pipeline.packing.pack import pack as packed
    from edgeloop_pipeline.packing.request import PackRequest

    name = given["name"] or re.sub(r"[^a-z0-9_-]+", "-", models[0].stem.lower()).strip("-_") or "model"
    if not NAME.fullmatch(name):
        raise UsageError(f"--name {name}: use a-z, 0-9, - and _, at most 63, the first a letter or digit")
    if out.suffix != ".edgeloop":
        raise UsageError(f"--out {out}: a bundle's name ends in .edgeloop")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}; make it first")
    request = PackRequest(
        models=list(models),
        out=out,
        name=name,
        version=given["version"],
        task=given["task"],
        labels=labels_given(given["labels"]),
        quantities=_listed(given["quantities"]),
        scores=given["scores"],
        output=given["output"],
        boxes=boxes_given(given["boxes"]) if given["boxes"] else None,
        points=labels_given(given["points"], "--points"),
        steps=dict(steps_given(text) for text in given["preprocess"]),
        constants={name: numbers_given(name, text) for name, text in pairs_given("--constant", given["constant"])},
        states=dict(pairs_given("--state", given["state"])),
        no_states=given["no_states"],
        reset=given["reset"],
        shapes={name: _sizes(name, text) for name, text in pairs_given("--shape", given["shape"])},
        tokenizers={name: Path(text) for name, text in by_input("--tokenizer", given["tokenizer"]).items()},
        lengths={name: length_given(text) for name, text in by_input("--length", given["length"]).items()},
        samples=given["samples"],
        card=_text(card) if card else "",
    )
    result = packed(request)
    if as_json:
        click.echo(msgspec.json.encode(result, enc_hook=str).decode())
        return
    click.echo(f"{result.path}: {', '.join(result.variants)}; {result.bytes:,} bytes, sha256 {result.sha256}")
    for fact in result.facts:
        click.echo(f"  {fact}")
    for what in result.unknown:
        click.echo(f"  not known: {what}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}); it must be UTF-8 text") from error


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def labels_given(text: str, option: str = "--labels") -> list[str]:
    """Names with commas between, one name, or the lines of a file of that name: one with a dot or a slash has to be there.

    Raises UsageError, also for an empty one between others.
    """
    from_file = text and (Path(text).exists() or ("," not in text and ("." in text or "/" in text)))
    parts = _text(Path(text)).rstrip().splitlines() if from_file else text.rstrip(", ").split(",") if text else []
    labels = [part.strip() for part in parts]
    kind = option.strip("-")
    if "" in labels:  # the labels behind it would move to other classes
        place = labels.index("") + 1
        raise UsageError(f"{option} {text[:80]}: {kind.removesuffix('s')} {place} is empty; write it, or remove it")
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"{option} {text[:80]}: {twice!r} is there twice; {kind} must be different")
    return labels


def boxes_given(text: str) -> Detection:
    """The task of a LAYOUT, whose settings of thresholds stand beside those of the layout; its labels follow."""
    import msgspec
    import yaml

    from edgeloop_contract.boxes import Layout
    from edgeloop_contract.tasks import Detection, Instances

    try:
        read = yaml.safe_load(text if text.lstrip().startswith("{") else _text(Path(text)))
        if not isinstance(read, dict):
            raise ValueError("write settings such as {layout: rows, channels: first}")
        beside = {key: read.pop(key) for key in BESIDE if key in read}
        kind = "instances" if "prototypes" in beside else "detection"
        task = {"kind": kind, "labels": [], **beside, "decode": msgspec.to_builtins(msgspec.convert(read, Layout))}
        return msgspec.convert(task, Detection | Instances)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"--boxes {text[:80]}: {' '.join(str(error).split())[:200]}; docs/detection.md has the layouts") from error


def pairs_given(option: str, texts: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} {text}: write NAME=VALUE")
        pairs.append((name, value))
    return pairs


def numbers_given(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--constant {name}={text}: write numbers with commas between") from None


def _sizes(name: str, text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", text):
        raise UsageError(f"--shape {name}={text}: write sizes such as 1x16000")
    return [int(part) for part in text.split("x")]


def steps_given(text: str) -> tuple[str, list[Any]]:
    """INPUT=STEPS or STEPS, where STEPS is YAML or a file of it."""
    import msgspec
    import yaml

    from edgeloop_contract.preprocessing import takes_texts

    match = re.fullmatch(r"([^=\[\]{}\s]+)=(.*)", text, re.S)
    name, body = (match[1], match[2]) if match else ("", text)
    content = _text(Path(body)) if not body.lstrip().startswith(("[", "{", "-")) else body
    try:
        read = yaml.safe_load(content)
        steps = [_step(item) for item in (read if isinstance(read, list) else [read])]
    except (yaml.YAMLError, msgspec.ValidationError, ValueError) as error:
        raise UsageError(
            f"--preprocess {text[:80]}: {' '.join(str(error).split())[:200]}; docs/preprocessing.md has the steps"
        ) from error
    if takes_texts(steps):
        raise UsageError("--preprocess: tokenize comes with its file; --tokenizer FILE takes both")
    return name, steps


def _step(item: Any) -> Any:
    """A step as a recipe has it; `{convention: NAME}` is sound features with a library's or benchmark's parameters."""
    import msgspec

    from edgeloop_contract.preprocessing import Step

    if isinstance(item, dict) and set(item) == {"convention"}:
        from edgeloop_contract.preprocessing.conventions import CONVENTIONS

        if item["convention"] not in CONVENTIONS:
            raise ValueError(f"no convention {item['convention']!r}; there is {', '.join(CONVENTIONS)}")
        return CONVENTIONS[item["convention"]]
    return msgspec.convert(item, type=Step)


def by_input(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    """INPUT=VALUE or VALUE; of a file's name that has a = itself, the file. Raises UsageError for an input that is there twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name, value = ("", text) if not equals or Path(text).is_file() else (name, value)
        if name in found or not value:
            why = "is there twice" if value else "has no value"
            raise UsageError(f"{option} {text}: {why}; say {option} INPUT=VALUE once for each")
        found[name] = value
    return found


def length_given(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= MAX_LENGTH:
        raise UsageError(f"--length {text}: say a whole number of token ids from 1 to {MAX_LENGTH}")
    return int(text)
