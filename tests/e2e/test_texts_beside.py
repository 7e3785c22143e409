"""Models with a text beside other inputs: a file, a tokenizer and a table become an int8 pair, and the agent answers in every form."""

from __future__ import annotations

import csv
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edgeloop
from commands import command, edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_contract.errors import DataError
from product_models import LENGTH, pair, product, products
from serving import eventually, serving
from token_models import LABELS, sentences, tokenizer

NEW = products(45, seed=9)
WORDS = ("--text-column", "title", "--label-column", "category", "--labels", ",".join(LABELS))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model of titles and prices, its tokenizer, and a table of labelled products."""
    folder = tmp_path_factory.mktemp("shop")
    tokenizer(folder / "tok.json", [text for text, _ in sentences(300, seed=5)])
    product(folder / "net.onnx", folder / "tok.json")
    with (folder / "products.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["number", "title", "price", "category"])
        table.writerows([i, one["title"], one["price"], one["label"]] for i, one in enumerate(products(120)))
    return folder


@pytest.fixture(scope="module")
def bundle(shop: Path) -> Path:
    where = ("--out", shop / "small", "--runs", shop / "runs", "--json", "--tokenizer", shop / "tok.json")
    done = edgeloop_here("compress", shop / "net.onnx", "--calibrate", shop / "products.csv", *where, *WORDS)
    assert done.returncode == 0, done.stderr
    assert "input title int32 [16]: a text, whose 16 token ids tok.json makes (title_ids, title_mask)" in done.stderr
    verified = next(stage["metrics"] for stage in json.loads(done.stdout)["stages"] if stage["name"] == "verify")
    assert verified["metric"] == "accuracy" and set(verified["variants"]) == {"onnx-int8", "tflite-int8"}
    assert min(file["accuracy"]["value"] for file in verified["variants"].values()) >= 0.9
    return shop / "runs" / "small" / "small-1.edgeloop"


def given(one: dict[str, Any]) -> dict[str, Any]:
    return {"title": one["title"], "price": one["price"]}


def test_a_text_and_a_number_become_a_bundle_whose_answers_are_the_originals(shop: Path, bundle: Path, tmp_path: Path) -> None:
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
        assert manifest.schema == 3 and "texts beside other inputs" in manifest.requires
        assert [(e.name, e.sample.dtype, e.sample.shape) for e in manifest.inputs] == [
            ("title", "int32", [LENGTH]), ("price", "float32", [1]),
        ]  # fmt: skip
        assert manifest.drift is not None and "tokenizer.json" in manifest.files
        assert any(name.startswith("price: mean") for name in manifest.drift.features)
        assert not any(name.startswith("title") for name in manifest.drift.features)
    report = (shop / "runs" / "small" / "report.html").read_text("utf-8")
    assert any(one["title"][:12] in report for one in products(120)) and "price: " in report
    wanted = [LABELS[int(scores.argmax())] for scores in original_scores(shop, NEW)]
    for variant in ("onnx-int8", "tflite-int8"):
        small = edgeloop.open(bundle, variant=variant, state=tmp_path / "state")
        found = [answer.label for answer in small([given(one) for one in NEW])]
        assert np.mean([a == b for a, b in zip(found, wanted, strict=True)]) >= 0.95
    with pytest.raises(DataError, match="title: the text is empty"):
        small({"title": " ", "price": 3})
    with pytest.raises(DataError, match="price: 'cheap' is a text; the input takes numbers"):
        small({"title": "rain", "price": "cheap"})
    with pytest.raises(DataError, match=r"title: float64 \[2\]; the input takes one text"):
        small({"title": np.zeros(2), "price": 3})
    with pytest.raises(DataError, match="arrays price; the model takes title, price"):
        small({"price": np.zeros(1)})


def original_scores(shop: Path, some: list[dict[str, Any]]) -> list[np.ndarray]:
    """Of the float file with its three inputs."""
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(shop / "tok.json"))
    tokens.enable_truncation(LENGTH)
    tokens.enable_padding(length=LENGTH)
    session = onnxruntime.InferenceSession(shop / "net.onnx")
    found = []
    for one in some:
        ids = np.array([tokens.encode(one["title"]).ids])
        fed = {"title_ids": ids, "title_mask": (ids != 0).astype(np.int64), "price": np.array([[one["price"]]], np.float32)}
        found.append(session.run(None, fed)[0])
    return found


def test_lines_tables_and_files_are_answered_or_refused_by_name(shop: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "old.npz").write_bytes(b"")
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.csv").write_text('price;title;label\n50;"butter; flour dough";kitchen\n80,5;train ticket;\nfree;storm;\n', "utf-8")
    (files / "b.jsonl").write_text(
        '{"inputs": {"title": "rain and storm", "price": 20}}\n{"title": "oven butter", "price": [50], "stock": 3}\n'
        '{"title": 7, "price": 1}\n{"title": "oven"}\n{"price": "50", "title": "oven"}\n{"text": "rain"}\n'
        + json.dumps({"title": "rain " * 2000, "price": 20}) + "\n", "utf-8",
    )  # fmt: skip
    (files / "h.csv").write_text("title,title,price\nstorm,wind,3\n")
    np.savez(files / "c.npz", title="storm and wind", price=20.0)
    np.savez(files / "d.npz", title=np.array(["storm"], object), price=20.0)
    np.savez(files / "e.npz", price=20.0, titel="storm")
    (files / "f.csv").write_text("title,cost\nstorm,3\n")
    (files / "g.txt").write_text("storm\n")
    done = command("edgeloop-agent", "run", bundle, "--source", files, "--state", tmp_path / "state")
    lines = {line["input"]: line.get("label") or line["refused"] for line in map(json.loads, done.stdout.splitlines())}
    assert lines == {
        "a.csv line 2": "kitchen", "a.csv line 3": "traffic",
        "a.csv line 4": "price: 'free' is no number, no list of numbers, and no picture or .npy file beside the table",
        "b.jsonl line 1": "weather", "b.jsonl line 2": "kitchen", "b.jsonl line 3": "title: 7 is no text; send it in quotation marks",
        "b.jsonl line 4": "has no 'price'; it has title",
        "b.jsonl line 5": "price: '50' is no number, no list of numbers, and no picture or .npy file beside the table",
        "b.jsonl line 6": "has no 'title'; it has text", "b.jsonl line 7": "weather", "c.npz": "weather",
        "d.npz": "title: holds Python objects (a pickle), which are never loaded; save texts by numpy.array(texts, dtype=str), and"
        " numbers as numbers",
        "e.npz": "arrays price, titel; the model takes title, price: send each by its name",
        "h.csv": "the column 'title' is there twice; rename one",
        "f.csv": "no column 'price'; it has title, cost: the first line names a column for each input",
    }  # fmt: skip
    said = '{"title": "train bridge", "price": 80}\nrain\n{"inputs": {"title": "a\\u0000b", "price": 3}}\n{"values": [[1]]}\n'
    done = command("edgeloop-agent", "run", bundle, "--source", "-", "--state", tmp_path / "state", stdin=said)
    first, *others = map(json.loads, done.stdout.splitlines())
    assert first["label"] == "traffic" and [line["refused"].split(":")[0] for line in others] == [
        "not JSON", "title", "has no 'title'; it has values",
    ]  # fmt: skip


@pytest.mark.long
def test_the_service_takes_texts_beside_numbers_and_a_watched_folder_of_tables(bundle: Path, tmp_path: Path) -> None:
    import tritonclient.http as triton

    seen = tmp_path / "seen"
    seen.mkdir()
    with serving(
        tmp_path, f'[source]\nkind = "watch"\nwhere = "{seen}"\nafter = "delete"\nsettle_seconds = 0.1\n', bundle
    ) as agent:
        client = triton.InferenceServerClient(agent.address.removeprefix("http://"))
        for binary in (False, True):
            title, price = triton.InferInput("title", [2], "BYTES"), triton.InferInput("price", [2, 1], "FP32")
            title.set_data_from_numpy(np.array(["train ticket", "café flour butter"], dtype=object), binary_data=binary)
            price.set_data_from_numpy(np.array([[80], [50]], np.float32), binary_data=binary)
            scores = client.infer("small", [title, price]).as_numpy("scores")
            assert [LABELS[i] for i in scores.argmax(1)] == ["traffic", "kitchen"]
        client.close()
        texts = {"name": "title", "datatype": "BYTES", "shape": [1], "data": ["storm"]}
        number = {"name": "price", "datatype": "FP32", "shape": [1, 1], "data": [20]}
        assert json.loads(asked(agent.address, texts, number))["outputs"][0]["shape"] == [1, 3]
        assert "title: the text is empty" in asked(agent.address, {**texts, "data": [" "]}, number)
        assert "price: texts; this input takes arrays" in asked(
            agent.address, texts, {**number, "datatype": "BYTES", "shape": [1], "data": ["x"]}
        )
        assert "takes title, price" in asked(agent.address, number)
        (seen / "half.csv.part").write_text("title,price\nstorm and wind,20\nflour and butter,50\n")
        (seen / "half.csv.part").rename(seen / "two.csv")
        np.savez(seen / "one.npz", title="bridge and tunnel", price=80.0)
        (seen / "bad.csv").write_text("title,price\n,20\n")
        lines = eventually(lambda: len(agent.lines) >= 4 and agent.lines)
        assert {line["input"]: line.get("label") for line in lines} == {
            "two.csv line 2": "weather", "two.csv line 3": "kitchen", "one.npz": "traffic", "bad.csv line 2": None,
        }  # fmt: skip
        eventually(lambda: [path.name for path in seen.iterdir()] == ["bad.csv"])  # what was answered as a whole is deleted


def asked(address: str, *inputs: dict[str, Any]) -> str:
    request = urllib.request.Request(f"{address}/v2/models/small/infer", json.dumps({"inputs": inputs}).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read(), "utf-8")
    except urllib.error.HTTPError as error:
        assert error.code == 400
        return str(error.read(), "utf-8")


def refused(net: Path, data: Path, out: Path, *more: object) -> str:
    done = edgeloop_here("compress", net, "--calibrate", data, "--out", out, "--prepare-only", *more)
    assert done.returncode != 0 and not out.exists() and len(done.stderr.strip().splitlines()) == 1, done.stderr
    return sentence(done, done.returncode)


def test_what_does_not_fit_is_one_sentence(shop: Path, tmp_path: Path) -> None:
    net, table, out, tokens = shop / "net.onnx", shop / "products.csv", tmp_path / "out", shop / "tok.json"
    said = ("--tokenizer", tokens)
    assert "--tokenizer title_ids=FILE" in refused(net, table, out, "--text-column", "title")
    assert "--tokenizer price=…: is no input of token ids" in refused(net, table, out, "--tokenizer", f"price={tokens}")
    assert "--tokenizer colour=…: there is no such input" in refused(net, table, out, "--tokenizer", f"colour={tokens}")
    assert "--tokenizer" in (why := refused(net, table, out, *said, *said)) and "is there twice" in why
    assert "--length x: say a whole number" in refused(net, table, out, *said, "--length", "title=x")
    assert "takes 16 tokens, and not 8; say --length 16" in refused(net, table, out, *said, "--length", "title=8")
    assert "--io original: is not for a model with texts" in refused(net, table, out, *said, "--io", "original")
    assert "title=…: is a text; --length" in refused(net, table, out, *said, "--preprocess", "title=[{step: pad, length: 9}]")
    assert "no column 'name'; it has number, title" in refused(net, table, out, *said, "--text-column", "name")
    assert "something else of" in refused(net, table, out, *said, "--text-column", "price")
    assert "its 'colour' is missing; it has" in refused(net, table, out, *said, *WORDS, "--label-column", "colour")
    assert "its labels 'kitchen', 'traffic' are none" in refused(net, table, out, *said, *WORDS, "--labels", "weather,b,c")
    (tmp_path / "empty.csv").write_text("title,price\n" + "".join(f"{'rain' * (i != 5)},{i}\n" for i in range(20)))
    assert "line 7): title: the text is empty" in refused(net, tmp_path / "empty.csv", out, *said)
    (tmp_path / "bad.csv").write_text("title,price\n" + "".join(f"rain,{'x' if i == 5 else i}\n" for i in range(20)))
    assert "bad.csv, line 7: price: 'x' is no number" in refused(net, tmp_path / "bad.csv", out, *said)
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps({"title": i, "price": i}) + "\n" for i in range(20)))
    assert "bad.jsonl, line 1: title: 0 is no text" in refused(net, tmp_path / "bad.jsonl", out, *said)
    (files := tmp_path / "files").mkdir()
    (tmp_path / "none.csv").write_text("title,price\n")
    assert "none.csv: has no samples" in refused(net, tmp_path / "none.csv", out, *said)
    for i in range(12):
        np.savez(files / f"{i:02}.npz", title=np.array("rain", object) if i == 3 else f"rain {i}", price=float(i))
    assert "holds Python objects (a pickle), which are never loaded" in refused(net, files, out, *said)
    np.savez(files / "03.npz", title=np.zeros(16, np.int64), price=3.0)
    assert "03.npz: its title is an array, and no text (str)" in refused(net, files, out, *said)
    np.savez(files / "03.npz", name="rain", price=3.0)
    assert "03.npz: has name, price; the model takes title, price" in refused(net, files, out, *said)


@pytest.mark.long
def test_a_question_and_a_passage_have_tokenizers_and_lengths_of_their_own(shop: Path, tmp_path: Path) -> None:
    """Rows of one .npz file, one tokenizer for both texts or one for each; a packed bundle answers as the compressed one."""
    from tokenizers import Tokenizer

    net = pair(tmp_path / "net.onnx", Tokenizer.from_file(str(shop / "tok.json")).get_vocab_size())
    titles = [one["title"] for one in products(120)]
    np.savez(tmp_path / "rows.npz", question=titles[::2], passage=titles[1::2])
    other = tokenizer(tmp_path / "other.json", [text for text, _ in sentences(300, seed=6)])
    both = ("--tokenizer", f"question={shop / 'tok.json'}", "--tokenizer", f"passage_ids={other}", "--output", "score")
    where = ("--out", tmp_path / "small", "--runs", tmp_path / "runs")
    assert "Say --tokenizer passage=FILE" not in refused(net, tmp_path / "rows.npz", tmp_path / "no", *both[:2], "--length", "5")
    done = edgeloop_here("compress", net, "--calibrate", tmp_path / "rows.npz", *both, *where)
    assert done.returncode == 0, done.stderr
    assert "passage: " in done.stderr and "other.json makes (passage_ids, passage_mask)" in done.stderr
    small = edgeloop.open(tmp_path / "runs" / "small" / "small-1.edgeloop", variant="onnx-int8", state=tmp_path / "state")
    packed = tmp_path / "packed.edgeloop"
    done = edgeloop_here("pack", net, "--out", packed, *both[:4], "--samples", tmp_path / "rows.npz")
    assert done.returncode == 0, done.stderr
    whole = edgeloop.open(packed, state=tmp_path / "state")
    pairs = [{"question": a["title"], "passage": b["title"]} for a, b in zip(NEW[::2], NEW[1::2], strict=False)]
    found = [
        [float(next(iter((answer.tensors or {}).values())).reshape(-1)[0]) for answer in model(pairs)] for model in (whole, small)
    ]
    assert np.corrcoef(found)[0, 1] > 0.99
