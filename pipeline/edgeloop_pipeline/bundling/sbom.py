"""Writes the bill of materials of a bundle: CycloneDX 1.6, with a machine-learning model and its card.

Specification: ECMA-424, https://cyclonedx.org/docs/1.6/json/. The same bundle gives the same bytes: the serial number is derived
from the bundle's digest, and there is no time stamp, because a bundle holds none. What the bundle does not know is left out.
"""

from __future__ import annotations

import re
import uuid
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

import msgspec

from edgeloop_contract.manifest import Manifest, Provenance, TensorSpec, Variant
from edgeloop_pipeline.bundling.model_card import card_header, data_digest, kind_of, modality
from edgeloop_pipeline.tasks.registry import metric_name

SPEC_VERSION = "1.6"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:edgeloop:bundle")
APPROACHES = {"classification": "supervised", "regression": "supervised", "anomaly": "unsupervised"}
MODEL, DATA = "model", "data"

Json = dict[str, Any]  # a part of the CycloneDX document


def sbom(manifest: Manifest, bundle_sha256: str) -> bytes:
    """The CycloneDX JSON of a bundle, indented, with a line end."""
    libraries = _libraries(manifest.provenance)
    data = _data(manifest)
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, bundle_sha256)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "edgeloop", "version": version("edgeloop")}]},
            "component": _model(manifest, bundle_sha256, bool(data)),
        },
        "components": [*data, *libraries],
        "dependencies": [
            {"ref": MODEL, "dependsOn": [part["bom-ref"] for part in (*data, *libraries)]},
            *({"ref": part["bom-ref"]} for part in (*data, *libraries)),
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def _model(manifest: Manifest, bundle_sha256: str, has_data: bool) -> Json:
    """The bundle as a component: its card, its licence, its parent, its files."""
    name = f"{manifest.name}-{manifest.version}.edgeloop"
    license = card_header(manifest.model_card).get("license")
    origin = manifest.provenance
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": manifest.name,
        "version": str(manifest.version),
        "hashes": _hashes(bundle_sha256),
        **({"licenses": [{"license": {"name": str(license)}}]} if license else {}),
        "purl": f"pkg:generic/{quote(manifest.name)}@{manifest.version}?checksum=sha256:{bundle_sha256}&file_name={quote(name)}",
        **(
            {"pedigree": {"ancestors": [_parent(manifest.name, str(origin.parent))]}}
            if origin and _is_digest(origin.parent)
            else {}
        ),
        "components": _files(manifest),
        "modelCard": _card(manifest, has_data),
        **({"properties": _origin(origin)} if origin else {}),
    }


def _card(manifest: Manifest, has_data: bool) -> Json:
    kind = kind_of(manifest.task)
    parameters: Json = {
        **({"approach": {"type": APPROACHES[kind]}} if kind in APPROACHES else {}),
        "task": kind,
        **({"datasets": [{"ref": DATA}]} if has_data else {}),
        "inputs": [{"format": _format(entry.sample, modality(manifest))} for entry in manifest.inputs],
        "outputs": [{"format": text} for text in dict.fromkeys(_format(o, "") for v in manifest.variants for o in v.outputs)],
    }
    figures = [figure for variant in manifest.variants for figure in _figures(variant, kind)]
    return {"modelParameters": parameters, **({"quantitativeAnalysis": {"performanceMetrics": figures}} if figures else {})}


def _figures(variant: Variant, kind: str) -> list[Json]:
    """The accuracy and the latency of one file, as far as they were measured."""
    found: list[Json] = []
    if (one := variant.accuracy) is not None:
        interval = {"lowerBound": repr(one.low), "upperBound": repr(one.high)}
        metric = metric_name(kind)
        found.append({"type": metric, "value": repr(one.value), "slice": variant.name, "confidenceInterval": interval})
    if (cost := variant.cost) is not None:
        where = f"{variant.name}, {cost.threads} threads, {cost.machine}"
        found.append({"type": "latency p50 in µs", "value": repr(cost.latency_us_p50), "slice": where})
    return found


def _files(manifest: Manifest) -> list[Json]:
    """Every file in the bundle; model files say their runtime and precision."""
    variants = {variant.file: variant for variant in manifest.variants}
    components = []
    for path, file in sorted(manifest.files.items()):
        properties = [_property("bytes", file.bytes)]
        if variant := variants.get(path):
            properties += [
                _property("variant", variant.name), _property("runtime", variant.runtime), _property("precision", variant.precision)
            ]  # fmt: skip
        part = {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": _hashes(file.sha256), "properties": properties}
        components.append(part)
    return components


def _data(manifest: Manifest) -> list[Json]:
    digest = data_digest(manifest.provenance)
    if not digest:
        return []
    named = card_header(manifest.model_card).get("datasets")
    dataset: Json = {"type": "dataset", "name": ", ".join(map(str, named)) if isinstance(named, list) else f"{manifest.name} data"}
    return [
        {
            "type": "data",
            "bom-ref": DATA,
            "name": dataset["name"],
            "description": "The files of training and test data; the digest is over their sorted names and digests.",
            "hashes": _hashes(digest),
            "data": [dataset],
        }
    ]


def _libraries(origin: Provenance | None) -> list[Json]:
    """The libraries that made the bundle, with their package URLs (https://github.com/package-url/purl-spec)."""
    components = []
    for name, number in sorted(origin.versions.items()) if origin else ():
        purl = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(number, safe='')}"
        components.append({"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl})
    return components


def _parent(name: str, sha256: str) -> Json:
    return {"type": "machine-learning-model", "bom-ref": "parent", "name": name, "hashes": _hashes(sha256)}


def _is_digest(text: str | None) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text or "") is not None


def _origin(origin: Provenance) -> list[Json]:
    return [
        _property("recipe_sha256", origin.recipe_sha256), _property("code_sha256", origin.code_sha256),
        _property("seed", origin.seed),
    ]  # fmt: skip


def _format(tensor: TensorSpec, of: str) -> str:
    return f"{of + ', ' if of else ''}{tensor.dtype} [{', '.join(map(str, tensor.shape))}]"


def _hashes(sha256: str) -> list[Json]:
    return [{"alg": "SHA-256", "content": sha256}]


def _property(name: str, value: object) -> Json:
    return {"name": f"edgeloop:{name}", "value": str(value)}
