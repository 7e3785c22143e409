"""Models of texts: a file, a tokenizer and texts become an int8 pair and a bundle, and the agent answers texts from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import edgeloop
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DataError
from edgeloop_contract.tasks import Classification
from edgeloop_pipeline.recipe.recipe import load
from serving import eventually, serving
from token_models import LABELS, classifier, encoder, sentences, tokenizer

TEXTS = sentences(120)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained classifier, its tokenizer, and labelled texts."""
    folder = tmp_path_factory.mktemp("texts")
    tokenizer(folder / "tok.json", [text for text, _ in sentences(300, seed=5)])
    classifier(folder / "net.onnx", folder / "tok.json")
    rows = "".join(f'"{text}",{label}\n' for text, label in TEXTS)
    (folder / "texts.csv").write_text(f"text,topic\n{rows}", encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(text for text, _ in TEXTS), encoding="utf-8")
    return folder


@pytest.mark.long
def test_a_classifier_of_texts_becomes_a_bundle_that_answers_texts(model: Path, tmp_path: Path) -> None:
    words = ("--tokenizer", model / "tok.json", "--labels", ",".join(LABELS), "--label-column", "topic", "--length", 24)
    where = ("--out", tmp_path / "small", "--runs", tmp_path / "runs")
    done = edgeloop_here("compress", model / "net.onnx", "--calibrate", model / "texts.csv", *where, *words, "--json")
    assert done.returncode == 0, done.stderr
    verified = next(stage["metrics"] for stage in json.loads(done.stdout)["stages"] if stage["name"] == "verify")
    assert verified["metric"] == "accuracy" and set(verified["variants"]) == {"onnx-int8", "tflite-int8"}
    for file in verified["variants"].values():
        assert file["accuracy"]["value"] >= verified["float_accuracy"]["value"] - 0.05
    path = tmp_path / "runs" / "small" / "small-1.edgeloop"
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        assert manifest.schema == 3 and "step tokenize" in manifest.requires and "tokenizer.json" in manifest.files
        assert isinstance(manifest.task, Classification) and manifest.drift is None and manifest.drift_reference is None
        assert (manifest.sample.dtype, manifest.sample.shape) == ("int32", [24])
    report = (tmp_path / "runs" / "small" / "report.html").read_text("utf-8")
    assert "What the model sees and answers" in report and any(text.split()[0] in report for text, _ in TEXTS)
    agrees_with_the_original(model, path, tmp_path)
    answers_in_every_form(path, tmp_path)
    answers_by_the_service(path, tmp_path)


def agrees_with_the_original(model: Path, path: Path, tmp_path: Path) -> None:
    """Each file of the bundle, on texts that it has not seen, against the float file with its three inputs."""
    from tokenizers import Tokenizer

    new = sentences(45, seed=9)
    tokens = Tokenizer.from_file(str(model / "tok.json"))
    session = onnxruntime.InferenceSession(model / "net.onnx")
    wanted = []
    for text, _ in new:
        ids = np.array([tokens.encode(text).ids])
        (scores,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
        wanted.append(LABELS[int(scores.argmax())])
    for variant in ("onnx-int8", "tflite-int8"):
        small = edgeloop.open(path, variant=variant, state=tmp_path / "state")
        found = [answer.label for answer in small([text for text, _ in new])]
        assert np.mean([a == b for a, b in zip(found, wanted, strict=True)]) >= 0.95


def answers_in_every_form(path: Path, tmp_path: Path) -> None:
    """Lines on standard input, a file, a folder, and Python."""
    said = 'old rain and storm\n{"text": "butter flour dough", "label": "kitchen"}\n{"values": [1, 2]}\n\n'
    done = command("edgeloop-agent", "run", path, "--source", "-", "--state", tmp_path / "state", stdin=said)
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert (first["label"], second["label"]) == ("weather", "kitchen"), done.stderr
    assert third["refused"] == "an array; this model takes texts"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one.txt").write_text("train and ticket\nbridge delay", encoding="utf-8")
    (tmp_path / "files" / "other.txt").write_bytes(b"good\nb\xe9d")
    done = command("edgeloop-agent", "run", path, "--source", tmp_path / "files", "--state", tmp_path / "state")
    one, other = map(json.loads, done.stdout.splitlines())
    assert one["label"] == "traffic" and "line 2 is not UTF-8 (byte 0xe9)" in other["refused"]
    done = command("edgeloop-agent", "run", path, "--source", tmp_path / "files" / "one.txt", "--state", tmp_path / "state")
    assert [json.loads(line)["input"] for line in done.stdout.splitlines()] == ["line 1", "line 2"]
    small = edgeloop.open(path, variant="onnx-int8", state=tmp_path / "state")
    assert small(tmp_path / "files" / "one.txt").label == small("train and ticket bridge delay").label == "traffic"
    with pytest.raises(DataError, match="the text is empty"):
        small("  \n")
    with pytest.raises(DataError, match="this model takes texts"):
        small(np.zeros((4, 4)))


def answers_by_the_service(path: Path, tmp_path: Path) -> None:
    """The agent's API takes texts as BYTES, in JSON and in binary; its source of lines takes a text a line."""
    import tritonclient.http as triton

    (tmp_path / "lines.txt").write_text('storm and wind\n{"text": "oven butter"}\n{"values": [[1]]}\n')
    source = f'[source]\nkind = "lines"\nwhere = "{tmp_path / "lines.txt"}"\n'
    with serving(tmp_path, source, path) as agent:
        client = triton.InferenceServerClient(agent.address.removeprefix("http://"))
        for binary in (False, True):
            given = triton.InferInput("input", [2], "BYTES")
            given.set_data_from_numpy(np.array(["train ticket", "café flour"], dtype=object), binary_data=binary)
            scores = client.infer("small", [given]).as_numpy("scores")
            assert [LABELS[i] for i in scores.argmax(1)] == ["traffic", "kitchen"]
        given = triton.InferInput("input", [1, 24], "INT32")  # ids go in as before
        given.set_data_from_numpy(np.array([[2, 9, 3, *[0] * 21]], np.int32))
        assert client.infer("small", [given]).as_numpy("scores").shape == (1, 3)
        client.close()
        lines = eventually(lambda: len(agent.lines) >= 3 and agent.lines)
    assert [line.get("label") for line in lines] == ["weather", "kitchen", None]
    assert lines[2]["refused"] == "an array; this model takes texts"


def refused(model: Path, data: Path, out: Path, *more: object, file: str = "net.onnx") -> str:
    done = edgeloop_here("compress", model / file, "--calibrate", data, "--out", out, "--prepare-only", *more)
    assert done.returncode != 0 and not out.exists() and len(done.stderr.strip().splitlines()) == 1, done.stderr
    return sentence(done, done.returncode)


def test_what_does_not_fit_is_one_sentence(model: Path, tmp_path: Path) -> None:
    texts, out, tokens = model / "texts.txt", tmp_path / "out", ("--tokenizer", model / "tok.json")
    assert "say which tokenizer.json makes them, with --tokenizer" in refused(model, texts, out)
    assert "is no tokenizer.json" in refused(model, texts, out, "--tokenizer", model / "net.onnx")
    assert "cannot be read" in refused(model, texts, out, "--tokenizer", tmp_path / "none.json")
    assert "is not for a model of texts" in refused(model, texts, out, *tokens, "--prune", 0.5)
    steps = "[{step: tokenize, file: tok.json, length: 8}]"
    assert "tokenize comes with its file" in refused(model, texts, out, *tokens, "--preprocess", steps)
    assert "--length says how many token ids" in refused(model, texts, out, *tokens, "--size", 24)
    assert "say a shorter --length" in refused(model, texts, out, *tokens, "--length", 500)  # more places than the model has
    assert "cannot make 2 ids: 2 are its special tokens" in refused(model, texts, out, *tokens, "--length", 2)
    (tmp_path / "pad.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": []}))
    assert "names no token that fills short texts" in refused(model, texts, out, "--tokenizer", tmp_path / "pad.json")
    grown = json.loads((model / "tok.json").read_text("utf-8"))
    grown["added_tokens"].append({**grown["added_tokens"][0], "id": (first := len(grown["model"]["vocab"])), "content": "[NEW]"})
    (tmp_path / "grown.json").write_text(json.dumps(grown))
    why = refused(model, texts, out, "--tokenizer", tmp_path / "grown.json")
    assert f"its token ids go up to {first}, and" in why and f"has a table of {first} rows" in why
    (tmp_path / "bad.txt").write_bytes("\n".join(text for text, _ in TEXTS).encode() + b"\n\xff\n")
    assert f"line {len(TEXTS) + 1} is not UTF-8" in refused(model, tmp_path / "bad.txt", out, *tokens)
    (tmp_path / "few.txt").write_text("one\ntwo\ntwo\n")
    assert "2 different texts; at least 8" in refused(model, tmp_path / "few.txt", out, *tokens)
    (tmp_path / "two.csv").write_text("first,second\na,b\n")
    assert "Say --text-column; it has first, second" in refused(model, tmp_path / "two.csv", out, *tokens)
    labels = ("--labels", ",".join(LABELS), "--label-column", "text")
    assert "are none of the model's" in refused(model, model / "texts.csv", out, *tokens, *labels)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_other_tokenizers_and_an_encoder(kind: str, tmp_path: Path) -> None:
    """A tokenizer beside the model is found; a vector for each text is judged by its cosine."""
    from tokenizers import Tokenizer

    tokenizer(tmp_path / "tokenizer.json", [text for text, _ in sentences(200, seed=5)], kind)
    encoder(tmp_path / "net.onnx", Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size())
    (tmp_path / "texts").mkdir()
    for i, (text, _) in enumerate(TEXTS[:40]):
        (tmp_path / "texts" / f"{i}.txt").write_text(text, encoding="utf-8")
    words = ("--calibrate", tmp_path / "texts", "--out", tmp_path / "small", "--runs", tmp_path / "runs", "--prepare-only")
    done = edgeloop_here("compress", tmp_path / "net.onnx", *words)
    assert done.returncode == 0, done.stderr
    assert "token ids a text: the longest of 40" in done.stderr and "the cosine between the two answers" in done.stderr
    done = edgeloop_here("run", tmp_path / "small", "--runs", tmp_path / "runs", "--json", "--set", "export.runtimes=[onnx]")
    assert done.returncode == 0, done.stderr
    verified = next(stage["metrics"] for stage in json.loads(done.stdout)["stages"] if stage["name"] == "verify")
    assert verified["variants"]["onnx-int8"]["accuracy"]["value"] >= 0.995
    small = edgeloop.open(tmp_path / "runs" / "small" / "small-1.edgeloop", variant="onnx-int8", state=tmp_path / "state")
    (vector,) = small("a new storm near the bridge").tensors.values()
    assert vector.shape == (64,)
    assert load(tmp_path / "small" / "recipe.yaml").head.preprocessing[0].file == "tokenizer.json"


def test_a_model_of_texts_is_packed_as_it_is(model: Path, tmp_path: Path) -> None:
    """With labels, and as a model of arrays, which answers by another path."""
    words = ("--tokenizer", model / "tok.json", "--length", 24, "--samples", model / "texts.csv")
    for more, key in ((("--labels", ",".join(LABELS), "--scores", "logits"), "label"), (("--task", "tensors"), "tensors")):
        bundle = tmp_path / f"{key}.edgeloop"
        done = edgeloop_here("pack", model / "net.onnx", "--out", bundle, *words, *more)
        assert done.returncode == 0, done.stderr
        assert "text: a text, whose 24 token ids tok.json makes" in done.stdout
        said = 'rain and storm\n{"text": "butter dough"}\n{"inputs": {"input": "train ticket"}}\n{"values": [1]}\n'
        done = command("edgeloop-agent", "run", bundle, "--source", "-", "--state", tmp_path / "state", stdin=said)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert lines[3]["refused"] == "an array; this model takes texts"
        answers = [line["label"] if key == "label" else LABELS[int(np.argmax(line["tensors"]["logits"]))] for line in lines[:3]]
        assert answers == ["weather", "kitchen", "traffic"]
    done = edgeloop_here("pack", model / "net.onnx", "--out", tmp_path / "no.edgeloop", *words[:2], "--length", "9999")
    assert "say a whole number of token ids from 1 to 8192" in sentence(done, 2)
    done = edgeloop_here("pack", model / "net.onnx", "--out", tmp_path / "no.edgeloop", *words[:2])
    assert "how many token ids has 'text'? Say --length text=N" in sentence(done, 2)
