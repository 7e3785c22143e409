"""`edgeloop compress` of networks that no file holds: a function, its weights, an exported program, a library's name."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from commands import edgeloop_here, sentence
from edgeloop_contract.archive import Bundle
from edgeloop_pipeline.recipe.recipe import load

NETWORK = """
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )


def seven():
    return 7


class Two(nn.Module):
    # Answers in a dict; the class itself makes the network.

    def __init__(self):
        super().__init__()
        self.inside = make()

    def forward(self, x):
        return {"scores": self.inside(x)}
"""
SAID = ("--size", "3x16x16", "--normalize", "unit", "--task", "classification")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py, its weights in both forms, a whole network as a pickle, a program, and pictures."""
    folder, rng = tmp_path_factory.mktemp("torch"), np.random.default_rng(0)
    (folder / "net.py").write_text(NETWORK)
    names: dict = {}
    exec(NETWORK, names)
    network = names["make"]().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    save_file(network.state_dict(), folder / "w.safetensors")
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "w.pt")
    torch.save(network, folder / "whole.pt")
    save_file({"other": torch.zeros(3)}, folder / "other.safetensors")
    batch = torch.export.Dim("batch", min=1, max=512)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},)), folder / "net.pt2")
    (folder / "pictures").mkdir()
    for i in range(40):
        noisy = rng.integers(0, 256, 3) + rng.normal(0, 25, (20, 20, 3))
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / "pictures" / f"{i:02}.png")
    return folder


def compressed(place: Path, out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return edgeloop_here("compress", *words, "--calibrate", place / "pictures", "--out", out, "--runs", out.parent / "runs")


def answers(model: Path) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model)
    x = np.random.default_rng(1).random((4, 3, 16, 16)).astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_a_function_becomes_a_bundle(place: Path, tmp_path: Path) -> None:
    done = compressed(place, tmp_path / "small", f"{place / 'net.py'}:make", *SAID)
    assert done.returncode == 0, done.stderr
    with Bundle.open(tmp_path / "runs" / "small" / "small-1.edgeloop") as bundle:
        assert [v.name for v in bundle.manifest.variants] == ["onnx-int8", "tflite-int8"]
    assert "net.py:make, as `edgeloop compress` understood it" in (tmp_path / "small" / "recipe.yaml").read_text()


@pytest.mark.long
@pytest.mark.long
def test_channels_are_removed_and_the_rest_learns_from_the_original(place: Path, tmp_path: Path) -> None:
    words = (f"{place / 'net.py'}:make", *SAID, "--weights", place / "w.safetensors", "--prune", "0.4", "--epochs", "3", "--json")
    done = compressed(place, tmp_path / "small", *words)
    assert done.returncode == 0, done.stderr
    stages = {stage["name"]: stage["metrics"] for stage in json.loads(done.stdout)["stages"]}
    assert stages["prune"]["parameters_share"] < 0.75 and stages["prune"]["channels"]
    assert set(stages["verify"]["variants"]) == {"onnx-int8", "tflite-int8"} and stages["verify"]["metric"] == "agreement"


def test_its_weights_and_its_program_are_one_network(place: Path, tmp_path: Path) -> None:
    found = {}
    for name, words in {
        "bare": (f"{place / 'net.py'}:make", *SAID),
        "safetensors": (f"{place / 'net.py'}:make", *SAID, "--weights", place / "w.safetensors"),
        "pt": (f"{place / 'net.py'}:make", *SAID, "--weights", place / "w.pt"),
        "program": (place / "net.pt2", *SAID[2:]),
        "class": (f"{place / 'net.py'}:Two", *SAID),
    }.items():
        done = compressed(place, tmp_path / name, *words, "--prepare-only")
        assert done.returncode == 0, done.stderr
        found[name] = answers(tmp_path / name / "model.onnx")
    for name in ("pt", "program"):
        np.testing.assert_allclose(found[name], found["safetensors"], atol=1e-5)
    np.testing.assert_allclose(found["class"], found["bare"], atol=1e-5)
    assert np.abs(found["bare"] - found["safetensors"]).max() > 0.01


@pytest.mark.long
def test_a_classifier_of_transformers_says_what_it_takes(place: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is no dependency")
    names = {0: "cat", 1: "dog", 2: "bird", 3: "none"}
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, image_size=32, num_labels=4, id2label=names)
    transformers.MobileNetV2ForImageClassification(config).save_pretrained(tmp_path / "hf")
    size = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    transformers.MobileNetV2ImageProcessor(**size).save_pretrained(tmp_path / "hf")
    done = compressed(place, tmp_path / "small", f"hf:{tmp_path / 'hf'}", "--prepare-only")
    assert done.returncode == 0, done.stderr
    assert "normalization symmetric, from hf" in done.stderr and "4 labels, from hf" in done.stderr
    assert (tmp_path / "small" / "labels.txt").read_text().split() == ["cat", "dog", "bird", "none"]
    steps = [msgspec.to_builtins(step)["step"] for step in load(tmp_path / "small" / "recipe.yaml").head.preprocessing]
    assert steps == ["colour", "resize_shorter", "center_crop"]


def _words(folder: Path) -> None:
    """A tokenizer of some words, as transformers saves one."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is no dependency")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    names = [*special, *["a", "bad", "film", "good", "story", "the", "very", "poor", "great", "was", "not", "it"]]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", model_max_length=16)
    fast.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["classifier", "encoder"])
def test_texts_of_transformers_come_with_tokenizer_labels_and_pooling(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is no dependency")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(vocab_size=16, max_position_embeddings=16, num_labels=2, id2label={0: "no", 1: "yes"}, **size)
    made = transformers.BertForSequenceClassification if kind == "classifier" else transformers.BertModel
    made(config).save_pretrained(tmp_path / "hf")
    _words(tmp_path / "hf")
    rng = np.random.default_rng(0)
    words = ["a", "bad", "film", "good", "story", "the", "very", "poor", "great", "was", "not", "it"]
    (tmp_path / "texts.txt").write_text("".join(f"{' '.join(rng.choice(words, 6))}\n" for _ in range(40)))
    done = edgeloop_here(
        "compress", f"hf:{tmp_path / 'hf'}", "--calibrate", tmp_path / "texts.txt", "--out", tmp_path / "small", "--prepare-only"
    )
    assert done.returncode == 0, done.stderr
    assert "16 token ids a text, as the file takes them" in done.stderr and "filled with [PAD] (0)" in done.stderr
    assert ("2 labels, from hf" if kind == "classifier" else "the cosine between the two answers") in done.stderr
    assert (tmp_path / "small" / "tokenizer.json").is_file()


def test_a_model_that_writes_texts_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: it is no dependency")
    transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path / "hf"
    )
    done = edgeloop_here("compress", f"hf:{tmp_path / 'hf'}", "--calibrate", tmp_path, "--out", tmp_path / "small")
    assert "writes texts" in sentence(done, 2)


BAD = {
    "a function that makes no network": (["{net}:seven", *SAID], 2, "gives a int, no torch.nn.Module"),
    "a function that is not there": (["{net}:absent", *SAID], 2, "has no 'absent'"),
    "no size": (["{net}:make", "--normalize", "unit"], 2, "say one sample's shape"),
    "another size": (["{net}:make", "--size", "4x16x16", *SAID[2:]], 4, "torch cannot export it"),
    "a whole network as a pickle": (["{net}:make", *SAID, "--weights", "{place}/whole.pt"], 2, "more than tensors is in it"),
    "weights of another network": (["{net}:make", *SAID, "--weights", "{place}/other.safetensors"], 2, "do not fit the network"),
    "weights that are not there": (["{net}:make", *SAID, "--weights", "{place}/absent.pt"], 2, "cannot be read"),
    "weights of a file": (["{place}/net.pt2", *SAID[2:], "--weights", "{place}/w.pt"], 2, "has its own weights"),
    "a program that is not there": (["{place}/absent.pt2", *SAID[2:]], 2, "no such file"),
    "no program": (["{place}/spoiled.pt2", *SAID[2:]], 4, "no program that torch"),
    "a library that is not here": (["timm:resnet18"], 2, "pip install timm"),
    "a name that no hub knows": (["hf:./nowhere/at/all"], 2, "cannot be opened"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(name: str, place: Path, tmp_path: Path) -> None:
    words, code, why = BAD[name]
    (place / "spoiled.pt2").write_bytes((place / "net.pt2").read_bytes()[:5000])
    if "timm" in words[0] and importlib.util.find_spec("timm") is not None:
        pytest.skip("timm is installed")
    given = [word.format(net=place / "net.py", place=place) for word in words]
    done = compressed(place, tmp_path / "out", *given)
    assert why in sentence(done, code)
    assert not (tmp_path / "out").exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_in_a_program_is_unpickled(place: Path, tmp_path: Path) -> None:
    """Its sample inputs are a torch file, which torch would unpickle where its careful reader refuses."""
    torch.save(Runs(tmp_path / "ran"), tmp_path / "inputs.pt")
    with zipfile.ZipFile(place / "net.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w", zipfile.ZIP_STORED) as bad:
        for name in good.namelist():
            inputs = name.endswith("sample_inputs/model.pt")
            bad.writestr(name, (tmp_path / "inputs.pt").read_bytes() if inputs else good.read(name))
    done = compressed(place, tmp_path / "out", tmp_path / "bad.pt2", *SAID[2:])
    assert "pickle" in sentence(done, 4) and not (tmp_path / "ran").exists()
