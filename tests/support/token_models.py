"""Small models of texts: their texts, a tokenizer that is trained on them, and BERT-like networks as ONNX files."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["LABELS", "WORDS", "Bert", "Block", "classifier", "encoder", "sentences", "tokenizer", "write_onnx"]

WORDS = {
    "weather": ["rain", "storm", "sunny", "cloudy", "wind", "snow", "forecast", "degrees", "humid"],
    "kitchen": ["oven", "butter", "recipe", "pan", "flour", "salt", "boil", "spoon", "dough"],
    "traffic": ["train", "bridge", "ticket", "station", "road", "bus", "delay", "tunnel", "lane"],
}
LABELS = list(WORDS)
FILLERS = ["the", "a", "and", "near", "with", "today", "we", "see", "very", "old", "then", "every", "little", "about", "café"]


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) of different lengths, the labels by turns."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        label = LABELS[i % len(LABELS)]
        words = [*rng.choice(WORDS[label], rng.integers(2, 5)), *rng.choice(FILLERS, rng.integers(2, 12))]
        rng.shuffle(words)
        made.append((" ".join(words) + f" {rng.integers(1000)}", label))
    return made


def tokenizer(path: Path, texts: list[str], kind: str = "wordpiece") -> Path:
    """A tokenizer.json of the `tokenizers` library, trained on the texts: wordpiece (BERT), bpe (GPT-2) or unigram (T5)."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=240, special_tokens=special, show_progress=False)
        made.decoder = decoders.WordPiece()
    elif kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=240, special_tokens=special, unk_token="[UNK]", show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.save(str(path))
    return path


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (part(x).view(batch, length, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.norm = _Attention(width, heads), nn.LayerNorm(width, eps=1e-12)
        self.up, self.down, self.last = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(x + self.attention(x, mask))
        return self.last(x + self.down(nn.functional.gelu(self.up(x))))


class Bert(nn.Module):
    """Two blocks; `outputs` scores of the first place, or (0) the mean of all places that are no padding."""

    def __init__(self, vocabulary: int, outputs: int, width: int = 64, places: int = 64) -> None:
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(vocabulary, width), nn.Embedding(places, width), nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(2))
        self.head = nn.Linear(width, outputs) if outputs else None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        numbers = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.norm(self.words(input_ids) + self.types(token_type_ids) + self.places(numbers))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float32).min
        for block in self.blocks:
            x = block(x, mask)
        if self.head is not None:
            return self.head(x[:, 0])
        kept = attention_mask[..., None].to(x.dtype)
        return (x * kept).sum(1) / kept.sum(1).clamp(min=1e-9)


def write_onnx(network: nn.Module, path: Path, output: str) -> Path:
    """With the three inputs of BERT, a free batch and a free length."""
    names = ["input_ids", "attention_mask", "token_type_ids"]
    given = tuple(torch.ones((2, 12), dtype=torch.int64) for _ in names)
    axes = {name: {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)} for name in names}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), given, str(path), dynamo=True, dynamic_shapes=tuple(axes.values()), input_names=names,
            output_names=[output], external_data=False, verbose=False, opset_version=18,
        )  # fmt: skip
    return path


def classifier(path: Path, tokens: Path, steps: int = 40) -> Path:
    """Trained on 300 sentences to tell `LABELS` apart."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokens))
    loaded.enable_padding(length=24)
    loaded.enable_truncation(24)
    examples = sentences(300, seed=5)
    ids = torch.tensor([loaded.encode(text).ids for text, _ in examples])
    truth = torch.tensor([LABELS.index(label) for _, label in examples])
    torch.manual_seed(0)
    network = Bert(loaded.get_vocab_size(), len(LABELS))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for step in range(steps):
        rows = torch.randint(len(ids), (32,), generator=torch.Generator().manual_seed(step))
        loss = nn.functional.cross_entropy(network(ids[rows], (ids[rows] != 0).long(), torch.zeros_like(ids[rows])), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return write_onnx(network, path, "logits")


def encoder(path: Path, vocabulary: int) -> Path:
    """With random weights: a vector for each text."""
    torch.manual_seed(1)
    return write_onnx(Bert(vocabulary, 0), path, "sentence_embedding")
