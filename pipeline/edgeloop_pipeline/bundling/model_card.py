"""Writes and reads model cards: Markdown with a YAML header, in the form that model hubs read.

The header follows the model card metadata of the Hugging Face Hub (https://github.com/huggingface/hub-docs/blob/main/modelcard.md):
`license`, `library_name`, `pipeline_tag`, `tags`, `datasets` and `model-index` with the measured metrics. Everything comes from the
manifest and the recipe; what they do not know is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeloop_contract.manifest import Manifest, Provenance, Variant

FENCE = "---\n"
MAX_LABELS = 50
NO_FILES = hashlib.sha256(b"{}").hexdigest()  # provenance of a recipe whose data are no files
METRIC_TYPES = {"classification": "accuracy", "regression": "r_squared", "anomaly": "roc_auc"}  # as the hub's evaluators name them
IMAGE_STEPS = frozenset({"grayscale", "colour", "bgr", "resize", "resize_shorter", "center_crop", "letterbox"})
SOUND_STEPS = frozenset({"log_mel", "sound_features"})
PIPELINE_TAGS = {("image", "classification"): "image-classification", ("audio", "classification"): "audio-classification"}


@dataclass(frozen=True)
class CardTexts:
    """What the recipe and the task say. `lines`: of the task. `license`: an SPDX name; "" if the recipe names none."""

    description: str
    lines: Sequence[str]
    metric: str
    license: str = ""
    datasets: Sequence[str] = ()


def model_card(manifest: Manifest, texts: CardTexts) -> str:
    """The model card of a bundle."""
    import yaml

    header = yaml.safe_dump(_header(manifest, texts), sort_keys=False, allow_unicode=True, width=1000)
    body = [
        f"# {manifest.name}, version {manifest.version}",
        *([texts.description.strip()] if texts.description.strip() else []),
        "\n".join(texts.lines),
        "## Files",
        _files_text(manifest, texts.metric),
        "## Input and output",
        _tensors_text(manifest),
        "## Origin",
        _origin_text(manifest.provenance, texts.license),
        "## Use",
        f"```sh\nedgeloop-agent run {manifest.name}-{manifest.version}.edgeloop --source recordings/\n```",
    ]
    return f"{FENCE}{header}{FENCE}\n" + "\n\n".join(part for part in body if part) + "\n"


def card_header(card: str) -> dict[str, Any]:
    """The header of a model card; {} if the card is plain text, as in older bundles."""
    import yaml

    _, fence, rest = card.partition(FENCE)
    head, end, _ = rest.partition(f"\n{FENCE}")
    if not card.startswith(FENCE) or not fence or not end:
        return {}
    try:
        found = yaml.safe_load(head)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def kind_of(task: msgspec.Struct) -> str:
    """The name of a task in the manifest: classification, regression, …"""
    return str(msgspec.to_builtins(task)["kind"])


def modality(manifest: Manifest) -> str:
    """image, audio or time-series, where the preprocessing or the channels say so; else ""."""
    steps = {step["step"] for step in msgspec.to_builtins(manifest.preprocessing)}
    if steps & SOUND_STEPS:
        return "audio"
    if steps & IMAGE_STEPS:
        return "image"
    return "time-series" if "window" in steps or manifest.channels else ""


def data_digest(provenance: Provenance | None) -> str:
    """The digest of the names and digests of all data files; "" if there were none, or if the origin is not known."""
    if provenance is None or provenance.data_sha256 == NO_FILES:
        return ""
    return provenance.data_sha256


def _header(manifest: Manifest, texts: CardTexts) -> dict[str, Any]:
    kind, of = kind_of(manifest.task), modality(manifest)
    tag = PIPELINE_TAGS.get((of, kind))
    formats = sorted({variant.runtime for variant in manifest.variants})
    precisions = sorted({str(variant.precision) for variant in manifest.variants})
    header: dict[str, Any] = {
        **({"license": texts.license.lower()} if texts.license else {}),
        "library_name": "edgeloop",
        **({"pipeline_tag": tag} if tag else {}),
        "tags": list(dict.fromkeys(["edgeloop", kind, *([of] if of else []), *formats, *precisions])),
        **({"datasets": list(texts.datasets)} if texts.datasets else {}),
    }
    if metrics := [_metric(variant, kind, texts.metric) for variant in manifest.variants if variant.accuracy is not None]:
        dataset = {"type": manifest.name, "name": f"test set of {manifest.name}", "split": "test"}
        if revision := data_digest(manifest.provenance):
            dataset["revision"] = revision
        result = {"task": {"type": tag or kind}, "dataset": dataset, "metrics": metrics}
        header["model-index"] = [{"name": manifest.name, "results": [result]}]
    return header


def _metric(variant: Variant, kind: str, metric: str) -> dict[str, Any]:
    accuracy = variant.accuracy
    assert accuracy is not None
    return {
        "type": METRIC_TYPES.get(kind, metric),
        "value": accuracy.value,
        "name": f"{metric}, {variant.name}",
        "args": {"variant": variant.name, "low": accuracy.low, "high": accuracy.high, "samples": accuracy.samples},
    }


def _files_text(manifest: Manifest, metric: str) -> str:
    lines = [f"| file | runtime | precision | bytes | {metric} (95 % interval) | p50 latency |", "|---|---|---|---|---|---|"]
    for variant in manifest.variants:
        accuracy, cost = variant.accuracy, variant.cost
        lines.append(
            f"| {variant.name} | {variant.runtime} | {variant.precision} | {manifest.files[variant.file].bytes:,} | "
            + (f"{accuracy.value:.2%} ({accuracy.low:.2%} to {accuracy.high:.2%}) | " if accuracy else "not measured | ")
            + (f"{cost.latency_us_p50:,.0f} µs, {cost.threads} thread{'s' * (cost.threads != 1)} |" if cost else "not measured |")
        )
    notes = []
    if counts := sorted({variant.accuracy.samples for variant in manifest.variants if variant.accuracy}):
        many = ", ".join(f"{count:,}" for count in counts)
        notes.append(f"Each file was tested in its runtime on {many} test samples; intervals by bootstrap over recordings.")
    if machines := sorted({variant.cost.machine for variant in manifest.variants if variant.cost}):
        notes.append(f"Latency of one sample, measured on {'; '.join(machines)}.")
    return "\n".join([*lines, *(["", " ".join(notes)] if notes else [])])


def _tensors_text(manifest: Manifest) -> str:
    lines: list[str] = []
    for entry in manifest.inputs:
        name = f" of {entry.name}" if len(manifest.inputs) > 1 else ""
        after = " after the steps below" if entry.preprocessing else ""
        lines.append(f"- one sample{name}: {entry.sample.dtype}, shape {entry.sample.shape}{after}")
        lines += [f"- step{name}: `{msgspec.json.encode(step, order='sorted').decode()}`" for step in entry.preprocessing]
    if manifest.channels:
        lines.append(f"- channels of a recording: {', '.join(manifest.channels)}")
    names = getattr(manifest.task, "labels", None) or getattr(manifest.task, "quantities", None) or []
    if names:
        more = f" and {len(names) - MAX_LABELS} more" if len(names) > MAX_LABELS else ""
        lines.append(f"- answer: {kind_of(manifest.task)}; {', '.join(names[:MAX_LABELS])}{more}")
    for spec in manifest.variants[0].outputs if len(manifest.variants[0].outputs) > 1 else []:
        lines.append(f"- output {spec.name}: {spec.dtype}, shape {spec.shape}")
    return "\n".join(lines)


def _origin_text(provenance: Provenance | None, license: str) -> str:
    lines = [f"- licence: {license or 'not stated'}"]
    if provenance is not None:
        lines += [
            f"- sha256 of the recipe {provenance.recipe_sha256}, of its code {provenance.code_sha256}; seed {provenance.seed}",
            f"- sha256 of its data {data_digest(provenance) or 'not known: the recipe names no data files'}",
            *([f"- follows the bundle with sha256 {provenance.parent}"] if provenance.parent else []),
            "- made with " + ", ".join(f"{name} {version}" for name, version in sorted(provenance.versions.items())),
        ]
    return "\n".join(lines)
