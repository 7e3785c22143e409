"""Small models with a text beside other inputs, as ONNX files: a product's title, price and picture; a question and a passage."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from token_models import LABELS, sentences

__all__ = ["LENGTH", "Product", "export", "pair", "product", "products"]

LENGTH = 16
PRICES = {"weather": 20.0, "kitchen": 50.0, "traffic": 80.0}


def products(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Title, price, picture (8 × 8 colours) and label; the title tells the label, and so does the price, roughly."""
    rng = np.random.default_rng(seed)
    return [
        {
            "title": text, "price": round(float(PRICES[label] + rng.normal(0, 8)), 2), "label": label,
            "picture": rng.normal(LABELS.index(label) - 1, 0.5, (3, 8, 8)).astype(np.float32),
        }
        for text, label in sentences(count, seed)
    ]  # fmt: skip


class Product(nn.Module):
    def __init__(self, vocabulary: int, picture: bool) -> None:
        super().__init__()
        self.words, self.price = nn.Embedding(vocabulary, 24), nn.Linear(1, 8)
        self.picture = (
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()) if picture else None
        )
        self.head = nn.Sequential(nn.Linear(40 if picture else 32, 32), nn.ReLU(), nn.Linear(32, len(LABELS)))

    def forward(self, title_ids: Tensor, title_mask: Tensor, price: Tensor, picture: Tensor | None = None) -> Tensor:
        kept = title_mask[..., None].to(torch.float32)
        title = (self.words(title_ids) * kept).sum(1) / kept.sum(1).clamp(min=1.0)
        parts = [title, torch.relu(self.price(price / 100))]
        if self.picture is not None and picture is not None:
            parts.append(self.picture(picture))
        scores: Tensor = self.head(torch.cat(parts, 1))
        return scores


class Pair(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(vocabulary, 24), nn.Linear(24, 24)

    def encoded(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask[..., None].to(torch.float32)
        return torch.relu(self.out((self.words(ids) * kept).sum(1) / kept.sum(1).clamp(min=1.0)))

    def forward(self, question_ids: Tensor, question_mask: Tensor, passage_ids: Tensor, passage_mask: Tensor) -> Tensor:
        question, passage = self.encoded(question_ids, question_mask), self.encoded(passage_ids, passage_mask)
        return (question * passage).sum(1, keepdim=True) + 0.1


def export(network: nn.Module, given: dict[str, Tensor], path: Path, output: str = "logits") -> Path:
    """With a free batch; lengths as given."""
    axes = {name: {0: torch.export.Dim("batch")} for name in given}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), tuple(given.values()), str(path), dynamo=True, dynamic_shapes=tuple(axes.values()),
            input_names=list(given), output_names=[output], external_data=False, verbose=False, opset_version=18,
        )  # fmt: skip
    return path


def product(path: Path, tokens: Path, picture: bool = False, steps: int = 60) -> Path:
    """Trained on 300 products to tell `LABELS` apart."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokens))
    loaded.enable_padding(length=LENGTH)
    loaded.enable_truncation(LENGTH)
    examples = products(300, seed=5)
    ids = torch.tensor([loaded.encode(one["title"]).ids for one in examples])
    price = torch.tensor([[one["price"]] for one in examples])
    pictures = torch.tensor(np.stack([one["picture"] for one in examples]))
    truth = torch.tensor([LABELS.index(one["label"]) for one in examples])
    torch.manual_seed(0)
    network = Product(loaded.get_vocab_size(), picture)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    given = {"title_ids": ids, "title_mask": (ids != 0).long(), "price": price, **({"picture": pictures} if picture else {})}
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(*given.values()), truth)
        torch.autograd.backward(loss)
        optimizer.step()
    return export(network, {name: values[:2] for name, values in given.items()}, path)


def pair(path: Path, vocabulary: int) -> Path:
    """A question and a passage, with random weights: one score."""
    torch.manual_seed(2)
    names = ("question_ids", "question_mask", "passage_ids", "passage_mask")
    given = {name: torch.ones((2, LENGTH), dtype=torch.int64) for name in names}  # one tensor for all would be traced as one input
    return export(Pair(vocabulary), given, path, "score")
