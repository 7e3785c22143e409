"""The loops that people write, on the fashion project's network and data: PyTorch's tutorial, Lightning's Trainer, accelerate's."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

BATCH = 128
WIDTHS = (16, 32, 64)


class Fashion:
    """The fashion project's network and data, as a peer would load them and as we do."""

    def __init__(self, images: int | None = None) -> None:
        from edgeloop_pipeline.data.normalization import input_normalization
        from edgeloop_pipeline.recipe import recipe
        from edgeloop_pipeline.recipe.project import Project

        project = Project(recipe.load(recipe.find("fashion")))
        splits = project.splits
        if images is not None:
            train = splits.train
            cut = {name: getattr(train, name)[:images] for name in ("values", "labels", "recording", "groups")}
            splits = replace(splits, train=replace(train, **cut))
        self.splits, self.normalization = splits, input_normalization(splits)

    def network(self) -> Any:
        import torch

        from edgeloop_models.fashion.network import resnet

        torch.manual_seed(0)
        return resnet((1, 28, 28), 10, WIDTHS, 1)

    def dataset(self) -> Any:
        """What the tutorial's `datasets.FashionMNIST(transform=ToTensor())` does, operation by operation."""
        import numpy as np
        import torch
        from PIL import Image
        from torch.utils.data import Dataset

        values, labels = torch.from_numpy(self.splits.train.values[..., 0].copy()), torch.from_numpy(self.splits.train.labels)

        class Images(Dataset):  # type: ignore[type-arg]
            def __len__(self) -> int:
                return len(labels)

            def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
                picture = Image.fromarray(values[i].numpy())
                image = torch.from_numpy(np.array(picture, np.uint8, copy=True))
                image = image.view(picture.size[1], picture.size[0], 1).permute((2, 0, 1)).contiguous()
                return image.to(dtype=torch.float32).div(255), int(labels[i])

        return Images()

    def ours(self, log: Callable[[str], None] = lambda _: None, network: Any = None, seed: int = 0, **settings: Any) -> Any:
        """Our loop: the network, and what `fit` says of it."""
        from edgeloop_pipeline.tasks.losses import cross_entropy
        from edgeloop_pipeline.training.fit import fit
        from edgeloop_pipeline.training.settings import FitSettings

        network = network or self.network()
        with tempfile.TemporaryDirectory() as scratch:
            given = FitSettings(**{"epochs": 1, "batch": BATCH, **settings})
            fitted = fit(
                network, self.normalization, self.splits, given, cross_entropy(0.0), seed=seed, scratch=Path(scratch), log=log
            )
        return network, fitted

    def accuracy(self, network: Any, split: str = "test") -> float:

        from edgeloop_pipeline.tasks.registry import task_for
        from edgeloop_pipeline.training.scoring import scores_of

        samples = getattr(self.splits, split)
        return task_for(self.splits).judge(scores_of(network, self.normalization, samples), samples)[0]


def loader_of(fashion: Fashion) -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(fashion.dataset(), batch_size=BATCH, shuffle=True)


def normalized(fashion: Fashion, x: Any) -> Any:
    """The tutorial leaves pixels in 0–1; to reach an accuracy it gets our normalization, once a batch."""
    return (255 * x - fashion.normalization.mean[0]) / fashion.normalization.std[0]


def tutorial(fashion: Fashion, epochs: int = 1, each_epoch: Callable[[Any], bool] = lambda _: False) -> float:
    """The loop of PyTorch's quickstart, with our schedule. Images a second."""
    import torch

    network, loader = fashion.network(), loader_of(fashion)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(loader) * epochs, pct_start=0.2)
    loss_function = torch.nn.CrossEntropyLoss()
    seen, taken = 0, 0.0
    for _ in range(epochs):
        network.train()
        start = time.perf_counter()
        for x, labels in loader:
            loss = loss_function(network(normalized(fashion, x)), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            seen += len(x)
        taken += time.perf_counter() - start
        if each_epoch(network):
            break
    return seen / taken


def lightning(fashion: Fashion) -> float:
    """Lightning's Trainer with its defaults. Images a second, without its start."""
    import lightning as L
    import torch

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = fashion.network()

        def training_step(self, batch: Any, _: int) -> Any:
            x, labels = batch
            return torch.nn.functional.cross_entropy(self.network(x), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

        def on_train_epoch_start(self) -> None:
            self.start = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.taken = time.perf_counter() - self.start

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), open("/dev/null", "w") as nowhere:  # noqa: PTH123
        warnings.simplefilter("ignore")
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            module = Module()
            L.Trainer(max_epochs=1, default_root_dir=folder).fit(module, loader_of(fashion))
    return len(fashion.splits.train) / module.taken


def accelerated(fashion: Fashion) -> float:
    """The loop of accelerate's quick tour. Images a second."""
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator()
    network, loader = fashion.network(), loader_of(fashion)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=len(loader), pct_start=0.2)
    network, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
    network.train()
    start, seen = time.perf_counter(), 0
    for x, labels in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        seen += len(x)
    return seen / (time.perf_counter() - start)
