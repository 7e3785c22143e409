"""Bundles that are spoiled where Python's own readers forgive, and manifests whose parts do not fit together."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgeloop_contract import archive, npy
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import BundleError, BundleTooNew
from edgeloop_contract.manifest import SCHEMA
from edgeloop_contract.manifest_json import decode
from manifests import with_input
from serving import GOLDEN
from spoiled import Change, array, before_the_directory, behind_a_stream, between_entries, parts, rebuilt, with_zipinfo

LAYOUTS: dict[str, Callable[[bytes], bytes]] = {
    "between two entries": between_entries,
    "before the directory": before_the_directory,
    "behind a deflate stream": behind_a_stream,
    "comments of entries": with_zipinfo("comment", b"x" * 25_000),
    "extra fields": with_zipinfo("extra", struct.pack("<HH", 0xCAFE, 25_000) + b"x" * 25_000),
    "behind the end": lambda data: data + b"x" * 25_000,
    "a comment of the archive": lambda data: data[:-2] + struct.pack("<H", 4) + b"data",
    "in front": lambda data: b"x" * 25_000 + data,
    "another name in the entry": lambda data: data.replace(b"models/onnx-int8.onnx", b"models/onnx-int9.onnx", 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_data_outside_the_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "b.edgeloop"
    path.write_bytes(LAYOUTS[name](GOLDEN.read_bytes()))
    assert path.read_bytes() != GOLDEN.read_bytes()
    with pytest.raises(BundleError, match=r"outside its files|not a whole bundle|cannot be unpacked"):
        Bundle.open(path)


def put(name: str, data: bytes) -> Change:
    return lambda _, files: files.__setitem__(name, data)


def header(text: str, body: bytes = b"") -> bytes:
    padded = text.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + body


ARRAYS = {
    "a shape of 10^13": header("{'descr': '<i2', 'fortran_order': False, 'shape': (10000000000000,), }", bytes(64)),
    "a shape that overflows": header("{'descr': '<i2', 'fortran_order': False, 'shape': (" + "9" * 18 + ", " + "9" * 18 + "), }"),
    "a negative shape": header("{'descr': '<i2', 'fortran_order': False, 'shape': (-1,), }"),
    "not Python": header("{'descr': '<i2', 'fortran_order': False, 'shape': ((((("),
    "a string literal without end": header("{'descr': '<i2"),
    "nested lists": header("[" * 110),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"x"),
    "a structured type": header("{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (1,), }", b"xx"),
    "an unknown version": b"\x93NUMPY\x09\x00" + bytes(200),
    "too short": header("{'descr': '<i2', 'fortran_order': False, 'shape': (4, 3), }", bytes(23)),
    "too long": header("{'descr': '<i2', 'fortran_order': False, 'shape': (4, 3), }", bytes(25)),
    "empty": b"",
    "a header longer than the file": b"\x93NUMPY\x01\x00\xff\xff" + bytes(20),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_spoiled_arrays_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not a plain array"):
        Bundle.open(rebuilt(tmp_path / "b.edgeloop", put("canary/inputs.npy", ARRAYS[name])))


def test_arrays_read_as_numpy_reads_them() -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(size=(3, 4)).astype(np.float32), np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(rng.normal(size=(3, 2))),
        np.zeros((0, 5), np.uint8), np.float64(3.0), np.array([True, False]), np.arange(5, dtype=np.float16),
    ):  # fmt: skip
        found = npy.decode(array(values))
        np.testing.assert_array_equal(found, values)
        assert found.dtype == np.asarray(values).dtype.newbyteorder("=") and found.flags.writeable


def variants(**change: Any) -> Change:
    return lambda manifest, _: manifest["variants"][0].update(change)


def labels(names: list[str]) -> Change:
    return lambda manifest, _: manifest["task"].update(labels=names)


UNFIT: dict[str, tuple[Change, str]] = {
    "a label too few": (lambda m, _: m["task"]["labels"].pop(), "scores for"),
    "a label too many": (lambda m, _: m["task"]["labels"].append("x"), "scores for"),
    "no labels": (labels([]), "there are none"),
    "a label twice": (lambda m, _: m["task"]["labels"].__setitem__(0, m["task"]["labels"][1]), "different names"),
    "an empty label": (lambda m, _: m["task"]["labels"].__setitem__(0, ""), "different names"),
    "an input that no sample has": (
        lambda m, _: m["variants"][0]["input"].update(shape=[7, 7]), r"takes shape \[7, 7\]",
    ),
    "a sample that no step makes": (lambda m, _: m["sample"].update(shape=[9, 6]), "axis 0"),
    "a shape of zero": (lambda m, _: m["variants"][0]["output"].update(shape=[0]), "which no tensor has"),
    "a negative shape": (lambda m, _: m["variants"][0]["output"].update(shape=[-1]), "which no tensor has"),
    "no shape": (lambda m, _: m["sample"].update(shape=[]), "which no tensor has"),
    "an immense shape": (lambda m, _: m["sample"].update(shape=[1 << 40, 6]), "which no tensor has"),
    "two variants of one name": (lambda m, _: m["variants"].append(m["variants"][0]), "two variants"),
    "scores of another count": (put("canary/scores.npy", array(np.zeros((3, 7), np.float32))), "canary's scores have shape"),
    "scores that are not finite": (
        lambda m, f: f.update({"canary/scores.npy": array(npy.decode(f["canary/scores.npy"]) * np.float32(np.nan))}),
        "no finite numbers",
    ),
    "inputs of another type": (
        lambda m, f: f.update({"canary/inputs.npy": array(npy.decode(f["canary/inputs.npy"]).astype(np.float32))}), "canary inputs",
    ),
    "labels beyond the last": (
        lambda m, f: f.update({"canary/labels.npy": array(npy.decode(f["canary/labels.npy"]) + 50)}), "canary labels are not",
    ),
    "labels of another count": (put("canary/labels.npy", array(np.zeros(2, np.int64))), "canary labels have shape"),
    "a step of nothing": (lambda m, _: m["canary"].update(score_step=0.0), "compares nothing"),
    "golden scores of no variant": (
        lambda m, _: m["canary"].update(variants={"x": {"scores": "canary/scores.npy", "score_step": 1.0, "max_steps": 1}}),
        "no variant",
    ),
    "a scale of nothing": (lambda m, _: m["variants"][0]["input"].update(quantization={"scale": 0.0, "zero_point": 0}), "scale of 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_together_is_refused(name: str, tmp_path: Path) -> None:
    change, message = UNFIT[name]
    path = rebuilt(tmp_path / "b.edgeloop", change)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(path)
    assert not isinstance(caught.value, BundleTooNew)


LATER: dict[str, Change] = {
    "a schema": lambda m, _: m.update(schema=SCHEMA + 1, requires=["boxes"]),
    "a field of a step": lambda m, _: m["preprocessing"][0].update(surprise=1),
    "a step": lambda m, _: m["preprocessing"].append({"step": "fourier"}),
    "a task": lambda m, _: m.update(task={"kind": "detection", "classes": ["a"]}),
    "a runtime": variants(runtime="openvino"),
    "a type": lambda m, _: m["variants"][0]["input"].update(dtype="bfloat16"),
}


@pytest.mark.parametrize("name", LATER)
def test_what_a_later_release_wrote_asks_for_an_update(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleTooNew, match="update edgeloop"):
        Bundle.open(rebuilt(tmp_path / "b.edgeloop", LATER[name]))


OPTIONAL: dict[str, Change] = {
    "a field": lambda m, _: m.update(surprise=1),
    "a field of a variant": variants(energy_uj=3.0),
    "a field of the canary": lambda m, _: m["canary"].update(masks="canary/inputs.npy"),
    "a field of the provenance": lambda m, _: m["provenance"].update(surprise=[1.0]),
}


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_a_later_release_adds_and_does_not_require_is_ignored(name: str, tmp_path: Path) -> None:
    with Bundle.open(rebuilt(tmp_path / "b.edgeloop", OPTIONAL[name])) as bundle, Bundle.open(GOLDEN) as golden:
        assert bundle.manifest == golden.manifest


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b'{"schema":1,"name":"\xf1"}', b"[" * 100_000, b'{"a":' * 50_000, b"[]", b"1", b"null", b'{"schema":true}', b"{}"]
)  # fmt: skip
def test_spoiled_manifests_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode(data, "here")


def test_a_thousand_spoiled_bundles(tmp_path: Path) -> None:
    """Bytes changed, put in, taken out or doubled, also in array headers with digests made right: BundleError or the same contents."""
    rng, original = random.Random(5), GOLDEN.read_bytes()
    _, files = parts()
    refused = 0
    for _ in range(1000):
        path = tmp_path / "b.edgeloop"
        data = bytearray(original)
        at, size = rng.randrange(len(data)), rng.choice((1, 2, 8, 300))
        kind = rng.choice(("change", "insert", "remove", "double", "array", "manifest"))
        if kind == "array":
            name = rng.choice([n for n in files if n.endswith(".npy")])
            spoiled = bytearray(files[name])
            spoiled[rng.randrange(min(128, len(spoiled)))] = rng.randrange(256)
            path = rebuilt(path, put(name, bytes(spoiled)))
        elif kind == "manifest":
            whole, _ = parts()
            key = rng.choice(list(whole))
            value = rng.choice([None, -1, 0, 1e308, "", "\u0000", [], {}, [[[]]], True])
            path = rebuilt(path, lambda m, _, key=key, value=value: m.update({key: value}))  # type: ignore[misc]
        else:
            piece = bytes(rng.randrange(256) for _ in range(size))
            data[at : at + (0 if kind == "insert" else size)] = {
                "change": piece, "insert": piece, "remove": b"", "double": bytes(data[at : at + size]) * 2
            }[kind]  # fmt: skip
            path.write_bytes(data)
        try:
            with Bundle.open(path) as bundle:
                for name in bundle.manifest.files:
                    if name.endswith(".npy"):
                        bundle.array(name)
        except BundleError:
            refused += 1
    assert refused > 700


def test_writing_refuses_what_opening_refuses(tmp_path: Path) -> None:
    with Bundle.open(GOLDEN) as bundle:
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        wrong = with_input(bundle.manifest, sample=msgspec.structs.replace(bundle.manifest.sample, shape=[3]))
    with pytest.raises(BundleError):
        archive.write(tmp_path / "b.edgeloop", wrong, files)
    assert not list(tmp_path.iterdir())


def test_every_variant_is_held_against_golden_scores(tmp_path: Path) -> None:
    """A bundle of before, whose golden scores are the integer reference's alone, is refused by a device that runs a float file too."""
    from edgeloop_agent.updates.canary import CanaryResult, try_out

    def spoil(_: dict[str, Any], files: dict[str, bytes]) -> None:
        files["canary/scores.npy"] = array(npy.decode(files["canary/scores.npy"]) + np.float32(50))

    spoiled = rebuilt(tmp_path / "spoiled.edgeloop", spoil)
    shutil.copy(GOLDEN, tmp_path / "good.edgeloop")
    for variant in ("onnx-float32", "tflite-float32", "onnx-int8"):
        config = tmp_path / f"{variant}.toml"
        config.write_text(f'bundles = ["{GOLDEN}"]\nstate = "{tmp_path}"\n[runtime]\nvariant = "{variant}"\n')
        assert "steps off the golden ones" in str(try_out(config, spoiled, 60))
        assert isinstance(try_out(config, tmp_path / "good.edgeloop", 60), CanaryResult)
