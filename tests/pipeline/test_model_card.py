"""The model card and the bill of materials of a bundle, read by the libraries that others read them with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commands import HERE, TINY, edgeloop_here, sentence
from edgeloop_contract import archive
from edgeloop_contract.archive import Bundle
from edgeloop_contract.manifest import Manifest
from edgeloop_pipeline.bundling.model_card import CardTexts, card_header, data_digest, model_card
from edgeloop_pipeline.bundling.sbom import sbom
from manifests import with_input

PARENT = "ab" * 32


@pytest.fixture(scope="module")
def made(tiny_run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the tiny project with a licence, a data set and a parent."""
    runs = Path(shutil.copytree(tiny_run["runs"], tmp_path_factory.mktemp("card") / "runs", symlinks=True))
    options = ("--set=license=CC-BY-4.0", "--set=datasets=[tones]", f"--set=parent={PARENT}", "--set=model_card='Tones: | by hand'")
    done = edgeloop_here("run", TINY, "--runs", runs, "--set=report=off", *options)
    assert done.returncode == 0, done.stderr
    return runs / "tiny"


@pytest.fixture
def manifest(made: Path) -> Manifest:
    with Bundle.open(made / "tiny-1.edgeloop") as bundle:
        return bundle.manifest


def test_a_model_hub_reads_the_card(made: Path, manifest: Manifest) -> None:
    from huggingface_hub import ModelCard

    assert (made / "README.md").read_text() == manifest.model_card
    card = ModelCard.load(made / "README.md")
    assert (card.data.license, card.data.library_name, card.data.datasets) == ("cc-by-4.0", "edgeloop", ["tones"])
    assert {"classification", "time-series", "onnx", "tflite", "int8", "float32"} <= set(card.data.tags)
    found = {result.metric_args["variant"]: result for result in card.data.eval_results}
    assert {v.name: (v.accuracy.value, v.accuracy.low) for v in manifest.variants} == {
        name: (result.metric_value, result.metric_args["low"]) for name, result in found.items()
    }
    assert "Tones: | by hand" in card.text and "Weakest class" in card.text and PARENT in card.text


def test_the_card_invents_nothing(manifest: Manifest) -> None:
    bare = msgspec.structs.replace(
        with_input(manifest, preprocessing=[]),
        variants=[msgspec.structs.replace(v, accuracy=None, cost=None) for v in manifest.variants],
        channels=[],
    )
    card = model_card(bare, CardTexts("", [], "accuracy"))
    assert card_header(card).keys() == {"library_name", "tags"}
    assert "licence: not stated" in card and "%" not in card.replace("95 %", "") and "µs" not in card
    assert data_digest(manifest.provenance) == "", "the tiny project's data are no files"
    assert "not known: the recipe names no data files" in card
    for plain in ("", "A plain text.", "---\nno: end", "---\n[: broken\n---\n", "---\n- a list\n---\n"):
        assert card_header(plain) == {}


def problems(document: bytes) -> Any:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode())


def test_the_bill_of_materials_fits_its_schema(made: Path, manifest: Manifest, tmp_path: Path) -> None:
    bundle, out = made / "tiny-1.edgeloop", tmp_path / "bom.json"
    assert edgeloop_here("sbom", bundle, "--output", out).returncode == 0
    assert edgeloop_here("sbom", bundle).stdout.encode() == out.read_bytes(), "deterministic"
    assert problems(out.read_bytes()) is None
    assert problems(out.read_bytes().replace(b'"supervised"', b'"guessed"')) is not None, "the validator looks"
    found = json.loads(out.read_bytes())
    model = found["metadata"]["component"]
    assert {f["name"]: f["hashes"][0]["content"] for f in model["components"]} == {n: f.sha256 for n, f in manifest.files.items()}
    assert model["pedigree"]["ancestors"][0]["hashes"][0]["content"] == PARENT
    assert model["licenses"][0]["license"]["name"] == "cc-by-4.0"
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {m["slice"]: float(m["value"]) for m in metrics if m["type"] == "accuracy"} == {
        v.name: v.accuracy.value for v in manifest.variants
    }
    libraries = {c["purl"] for c in found["components"]}
    assert f"pkg:pypi/numpy@{manifest.provenance.versions['numpy']}" in libraries and len(libraries) == len(
        manifest.provenance.versions
    )
    assert "timestamp" not in out.read_text()


def test_the_bill_names_the_data(manifest: Manifest) -> None:
    assert manifest.provenance is not None
    origin = msgspec.structs.replace(manifest.provenance, data_sha256="cd" * 32, parent="not a digest")
    document = sbom(msgspec.structs.replace(manifest, provenance=origin), "ef" * 32)
    assert problems(document) is None
    (data,) = (c for c in json.loads(document)["components"] if c["type"] == "data")
    assert data["name"] == "tones" and data["hashes"][0]["content"] == "cd" * 32
    assert "pedigree" not in json.loads(document)["metadata"]["component"]


@pytest.mark.parametrize("golden", sorted((HERE / "goldens").glob("**/*.edgeloop")), ids=lambda p: p.stem)
def test_bundles_of_each_release_have_one(golden: Path) -> None:
    with archive.Bundle.open(golden) as bundle:
        assert problems(sbom(bundle.manifest, bundle.sha256)) is None


def test_bad_input(made: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.edgeloop").write_bytes(b"no bundle")
    sentence(edgeloop_here("sbom", tmp_path / "bad.edgeloop"), 5)
    assert "cannot be written" in sentence(
        edgeloop_here("sbom", made / "tiny-1.edgeloop", "--output", tmp_path / "no" / "x.json"), 7
    )
